"""What a training ran on and how much memory it took, kept beside its adapter.

Use: `usage()`, at the training's end.
"""

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any


def usage() -> dict[str, Any]:
    """`machine` in words, and `peak_memory_gb` (10^9 bytes) of this process.

    On a GPU the memory that PyTorch had reserved there, else the largest resident set.
    """
    import torch

    if torch.cuda.is_available():
        machine = f"{torch.cuda.get_device_name()} x {torch.cuda.device_count()}"
        peak = torch.cuda.max_memory_reserved()
    else:
        machine = cpu_name()
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, getrusage(2)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"machine": machine, "peak_memory_gb": round(peak / 1e9, 2)}


def cpu_name() -> str:
    """The processor's own name, and how many cores the machine has."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a processor that does not say
        name = platform.machine()
    return f"{name}, {os.cpu_count()} cores"
