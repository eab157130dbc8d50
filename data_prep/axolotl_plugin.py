"""Our Axolotl plugin: it declares the `summarization:` block and makes CPU training work.

Named in a recipe under `plugins:`. Axolotl then validates the block, and refuses any top-level key
that neither it nor the block knows. On a machine with a GPU nothing else of a run is changed.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel, ConfigDict

from data_prep.recipe import Summarization

LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")


class SummarizationArgs(BaseModel):
    """Mixed into Axolotl's schema; `forbid` makes its whole top level strict."""

    model_config = ConfigDict(extra="forbid")

    summarization: Summarization


class SummarizationPlugin(BasePlugin):
    """The hooks; each is called by Axolotl."""

    def get_input_args(self) -> str:
        """Name the pydantic class of our block."""
        return "data_prep.axolotl_plugin.SummarizationArgs"

    def register(self, cfg: dict[str, Any]) -> None:
        """Set, before validation, what depends on the data and on the machine."""
        if not cfg.get("dataset_prepared_path"):
            cfg["dataset_prepared_path"] = tokenized_path(cfg)
        if not torch.cuda.is_available():
            use_all_cores()
            keep_freed_memory()
            for kernel in LORA_KERNELS:  # Triton kernels; Axolotl switches them on by itself
                cfg[kernel] = False
            if cfg.get("bf16") == "auto":  # Axolotl would take fp16, which is slow on a CPU
                cfg["bf16"], cfg["fp16"] = bf16_is_faster(), False

    def get_training_args(self, cfg: dict[str, Any]) -> dict[str, Any]:
        """On CPU: allow bf16 there, and no full evaluation before the first step."""
        return {} if torch.cuda.is_available() else {"use_cpu": True, "eval_on_start": False}


def tokenized_path(cfg: dict[str, Any]) -> str:
    """A folder for Axolotl's tokenised rows that is another one whenever the data are.

    Axolotl's own cache key leaves the content of the files out: edited rows would go unnoticed.
    """
    folder = Path(cfg["datasets"][0]["path"]).parent
    try:
        files = json.loads((folder / "manifest.json").read_text("utf-8"))["files"]
    except (OSError, ValueError, KeyError) as error:
        path = folder / "manifest.json"
        print(f"error: {path}: {error}; run `python -m data_prep` first", file=sys.stderr)
        raise SystemExit(2) from error
    return str(folder / f"tokenized-{files['train.jsonl'][:8]}-{files['validation.jsonl'][:8]}")


def use_all_cores() -> None:
    """Share the cores among the processes; `accelerate launch` asks for one thread each."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def keep_freed_memory() -> None:
    """Tell glibc to reuse large freed blocks: half the time of a step went into page faults."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):  # another C library: slower, still right
        return


def bf16_is_faster(size: int = 768, rounds: int = 5) -> bool:
    """Measure on this CPU whether a bf16 matrix product beats fp32, as it does with AVX512-BF16."""

    def best_time(dtype: torch.dtype) -> float:
        a, b = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - start)
        return min(times)

    return best_time(torch.bfloat16) < best_time(torch.float32)
