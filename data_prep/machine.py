"""What PyTorch needs on a CPU or a GPU to be fast and correct, and memory use."""

import ctypes
import gc
import os
import platform
import resource
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


def use_all_cores() -> None:
    """Divide the cores among the processes; `accelerate launch` asks for one thread each."""
    import torch

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // processes))


def keep_freed_memory() -> None:
    """Tell glibc to reuse large freed blocks: page faults took up to half of a step."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):  # another C library: slower, but correct
        return


def bf16_is_faster(size: int = 768, rounds: int = 5) -> bool:
    """Measure whether a matrix product is faster in bf16 than in fp32 on this CPU.

    It is three times as fast with AVX512-BF16 and a third as fast without, so noise is harmless.
    """
    import torch

    generator = torch.Generator().manual_seed(0)  # leaves the training's random state alone

    def best_time(dtype: "torch.dtype") -> float:
        a, b = torch.randn(2, size, size, generator=generator).to(dtype)
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - start)
        return min(times)

    return best_time(torch.bfloat16) < best_time(torch.float32)


def avoid_cudnn_attention() -> None:
    """Exclude cuDNN's attention, which PyTorch prefers on Hopper and Blackwell cards.

    With torch 2.13 it makes a new plan for every length of the keys, 20 ms or more per new token,
    garbles greedy text of models with few key heads (pytorch #193893, on a B200), and returns NaN
    gradients for some masked lengths (#196678). The other kernels of `sdpa` do none of this.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def free_memory() -> None:
    """Free what no name refers to any more: bitsandbytes' weights are in reference cycles."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()  # does nothing without a GPU


def shard_on_cpu() -> None:
    """Let FSDP2 shard over CPU processes: Axolotl explicitly asks for a mesh of CUDA devices."""
    from accelerate.parallelism_config import ParallelismConfig

    original = ParallelismConfig.build_device_mesh
    ParallelismConfig.build_device_mesh = lambda self, _: original(self, "cpu")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that GPU memory or main memory ran out.

    accelerate 1.x's `should_reduce_batch_size` misses `MemoryError` and `CUDA error: out of memory`
    (from outside PyTorch's allocator), and mistakes a missing cuDNN kernel for a lack of memory.
    """
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    messages = ("can't allocate memory", "Cannot allocate memory", "CUDA error: out of memory",
                "CUBLAS_STATUS_ALLOC_FAILED")  # fmt: skip
    return any(message in str(error) for message in messages)


class Usage(NamedTuple):
    """A description of the machine, and the peak memory of this process in 10^9 bytes."""

    machine: str
    peak_memory_gb: float


_peak_on_gpu = 0  # bytes


def usage() -> Usage:
    """Return the usage; peak memory is PyTorch's reserved GPU memory, or the resident set size.

    On a GPU it is that of the calls up to now: Axolotl resets PyTorch's own peak at each log.
    """
    import torch

    global _peak_on_gpu
    if torch.cuda.is_available():
        machine = cards()
        peak = _peak_on_gpu = max(_peak_on_gpu, torch.cuda.max_memory_reserved())
    else:
        machine = cpu_name()
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, getrusage(2)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return Usage(machine, round(peak / 1e9, 2))


def cards(count: int = 0) -> str:
    """Return the GPU's name and `count`, or how many of them this machine's processes use."""
    import torch

    return f"{torch.cuda.get_device_name()} x {count or os.environ.get('LOCAL_WORLD_SIZE', '1')}"


@cache
def cpu_name() -> str:
    """Return the processor's name and the machine's number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or no `model name`
        name = platform.machine()
    return f"{name}, {os.cpu_count()} cores"
