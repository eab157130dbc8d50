#!/bin/sh
# Make a virtual environment with the project in it: `sh scripts/setup.sh VENV [EXTRA]`.
# Without a GPU it takes PyTorch's CPU build, which spares several GB of CUDA libraries.
set -eu
venv=$1
extra=${2:-}
torch=2.13.0
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "error: $python is older than 3.11; set PYTHON=python3.11 or later" >&2; exit 2; }
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip install --quiet"
if ! nvidia-smi -L >/dev/null 2>&1 && [ "$(uname -s)" = Linux ] &&
    ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    # a wheel of the CPU build at hand, else from PyTorch's own index, which uv knows by name
    $pip "torch==$torch+cpu" 2>/dev/null || {
        $pip uv && "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" \
            --torch-backend cpu "torch==$torch"
    } || echo "setup: no CPU build of torch found; installing the default build" >&2
fi
$pip --editable ".${extra:+[$extra]}"
