#!/bin/sh
# Create a virtual environment with the project in it: `sh scripts/setup.sh VENV [EXTRA]`.
# Without a GPU it installs PyTorch's CPU build, which saves several GB of CUDA libraries. Set
# DEVICE=cuda if the GPU is on another machine (when building an image, on a login node).
# pip's output goes to VENV/setup.log, or with SAMSUM_LORA_VERBOSE to the terminal.
set -eu
venv=$1
extra=${2:-}
torch=2.13.0

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
for python in "$venv/bin/python" ${PYTHON:-python3 python3.12 python3.11} ""; do
    if [ -n "$python" ] && fits "$python"; then break; fi
done
[ -n "$python" ] ||
    { echo "error: axolotl needs Python 3.11 or 3.12; set PYTHON=/path/to/python3.12" >&2; exit 2; }
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
log=$venv/setup.log
quietly() { if [ "${SAMSUM_LORA_VERBOSE:-}" ]; then "$@"; else "$@" >>"$log" 2>&1; fi; }
pip="quietly $venv/bin/python -m pip install"

gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
if [ "$gpu" ] || [ "${DEVICE:-}" = cuda ]; then
    echo "setup: ${gpu:-DEVICE=cuda}: PyTorch with CUDA, into $venv (several GB)"
elif [ "$(uname -s)" = Linux ]; then
    echo "setup: no NVIDIA GPU found: PyTorch for the CPU, into $venv"
    # a CPU wheel from pip's own sources, else from PyTorch's index, which uv knows by name
    "$venv/bin/python" -c 'import torch' 2>/dev/null || $pip "torch==$torch+cpu" || {
        $pip uv && quietly "$venv/bin/uv" pip install --python "$venv/bin/python" \
            --torch-backend cpu "torch==$torch"
    } || echo "setup: no CPU build of torch found; installing the default build" >&2
else
    echo "setup: PyTorch's default build, into $venv"
fi
echo "setup: the project and ${extra:-what it needs}, several minutes the first time; log: $log"
project=".${extra:+[$extra]}"
# uv takes a minute where pip takes five
{ $pip uv && quietly "$venv/bin/uv" pip install --python "$venv/bin/python" --editable "$project"; } ||
    $pip --editable "$project" ||
    { tail -n 20 "$log" >&2 2>/dev/null; echo "error: pip failed; its last lines are above, the rest is in $log" >&2; exit 2; }
echo "setup: done, $venv"
if [ "$gpu" ] && ! "$venv/bin/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "setup: this torch sees no GPU, most likely because the driver is older than its CUDA;" \
        "take the build for the driver: $venv/bin/python -m pip install uv && $venv/bin/uv pip" \
        "install --python $venv/bin/python --torch-backend auto --reinstall-package torch torch==$torch" >&2
    exit 1
fi
