#!/bin/sh
# Create a virtual environment with the project in it: `sh scripts/setup.sh VENV [EXTRA]`.
# Without a GPU it installs PyTorch's CPU build, which saves several GB of CUDA libraries. Set
# DEVICE=cuda if the GPU is on another machine (when building an image, on a login node), and also
# UV_TORCH_BACKEND=cu126 if the driver there is older than 580.
# The installers' output goes to VENV/setup.log, or with SAMSUM_LORA_VERBOSE to the terminal.
set -eu
venv=$1
extra=${2:-}
torch=2.13.0
backend=${UV_TORCH_BACKEND:-}
unset UV_TORCH_BACKEND  # for torch alone: uv would take other packages from PyTorch's index, too

fail() { echo "error: $1" >&2; exit 2; }
fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
for python in "$venv/bin/python" ${PYTHON:-python3 python3.12 python3.11} ""; do
    if [ -n "$python" ] && fits "$python"; then break; fi
done
[ -n "$python" ] || fail "axolotl needs Python 3.11 or 3.12, and found none; set PYTHON=/path/to/python3.12, \
or download one first: pip install uv && uv venv --seed --python 3.12 $venv"
[ ! -f "$venv/pyvenv.cfg" ] || fits "$venv/bin/python" || fail "$venv has no working Python 3.11 or 3.12; delete it"
# without pip, the environment is missing or was left half made
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$venv" ||
    fail "$python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"
log=$venv/setup.log
quietly() { if [ "${SAMSUM_LORA_VERBOSE:-}" ]; then "$@"; else "$@" >>"$log" 2>&1; fi; }
pip="quietly $venv/bin/python -m pip install"
uv="quietly $venv/bin/uv pip install --python $venv/bin/python"  # a minute where pip takes five
has_torch() { "$venv/bin/python" -c 'import torch' 2>/dev/null; }
sees_gpu() { "$venv/bin/python" -c 'import torch; torch.cuda.init()' 2>/dev/null; }

card=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null) || card=
card=$(echo "$card" | head -n 1)
driver=${card##*, }
if [ "$card" ] || [ "${DEVICE:-}" = cuda ]; then
    echo "setup: ${card:-DEVICE=cuda}: PyTorch with CUDA, into $venv (several GB)"
    reinstall="--reinstall-package torch torch==$torch"
    if [ "$backend" ]; then
        { $pip uv && $uv --torch-backend "$backend" $reinstall; } ||
            fail "found no build of torch $torch for $backend; $log says why"
    elif [ "${driver%%.*}" -lt 580 ] 2>/dev/null && ! sees_gpu; then
        # the registry's build has CUDA 13, which needs driver 580; uv knows the others
        { $pip uv && $uv --torch-backend auto $reinstall; } ||
            echo "setup: found no build of torch for driver $driver; installing the default build" >&2
    elif [ "$card" ] && has_torch && ! sees_gpu; then  # the CPU's, from a time without the card
        $pip uv && $uv $reinstall
    fi
elif [ "$(uname -s)" = Linux ]; then
    echo "setup: no NVIDIA GPU found: PyTorch for the CPU, into $venv"
    # a CPU wheel from pip's own sources, else from PyTorch's index, which uv knows by name
    has_torch || $pip "torch==$torch+cpu" ||
        { $pip uv && $uv --torch-backend cpu "torch==$torch"; } ||
        echo "setup: no CPU build of torch found; installing the default build" >&2
else
    echo "setup: PyTorch's default build, into $venv"
fi
echo "setup: the project and ${extra:-what it needs}, several minutes the first time; log: $log"
project=".${extra:+[$extra]}"
{ $pip uv && $uv --editable "$project"; } || $pip --editable "$project" ||
    { tail -n 20 "$log" >&2 2>/dev/null; fail "pip failed; its last lines are above, the rest is in $log"; }
echo "setup: done, $venv"
if [ "$card" ] && ! sees_gpu; then
    reason=$("$venv/bin/python" -c 'import torch; torch.cuda.init()' 2>&1 | tail -n 1)
    fail "torch sees no GPU, with driver $driver (CUDA 13 needs 580 or newer): $reason"
fi
