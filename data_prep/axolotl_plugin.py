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

from data_prep.errors import UserError, whole_file
from data_prep.manifest import check_prepared
from data_prep.recipe import Recipe, Summarization

TRAINED_WITH = "trained_with.json"
LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")


class SummarizationArgs(BaseModel):
    """Mixed into Axolotl's schema; `forbid` makes its whole top level strict."""

    model_config = ConfigDict(extra="forbid")

    summarization: Summarization


class SummarizationPlugin(BasePlugin):
    """The hooks; each is called by Axolotl."""

    _trainer: Any = None

    def get_input_args(self) -> str:
        """Name the pydantic class of our block."""
        return "data_prep.axolotl_plugin.SummarizationArgs"

    def register(self, cfg: dict[str, Any]) -> None:
        """Set, before validation, what depends on the machine."""
        if not torch.cuda.is_available():
            use_all_cores()
            keep_freed_memory()
            for kernel in LORA_KERNELS:  # Triton kernels; Axolotl switches them on by itself
                cfg[kernel] = False
            if cfg.get("bf16") == "auto":  # Axolotl would take fp16, which is slow on a CPU
                cfg["bf16"], cfg["fp16"] = bf16_is_faster(), False

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> None:
        """Refuse data that this recipe did not make; key Axolotl's cache on their content.

        Axolotl's own key leaves the content of the files out: edited rows would go unnoticed.
        """
        block = Summarization.model_validate(cfg["summarization"].to_dict())
        recipe = Recipe(Path(cfg["axolotl_config_path"]), cfg.to_dict(), block)
        try:
            files = check_prepared(recipe)["files"]
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from error
        if not cfg["dataset_prepared_path"]:
            parts = [files[f"{split}.jsonl"][:8] for split in ("train", "validation")]
            cfg["dataset_prepared_path"] = str(recipe.data_dir / "-".join(["tokenized", *parts]))

    def get_training_args(self, cfg: dict[str, Any]) -> dict[str, Any]:
        """On CPU: allow bf16 there, and no full evaluation before the first step."""
        return {} if torch.cuda.is_available() else {"use_cpu": True, "eval_on_start": False}

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Remember the trainer until it has trained."""
        self._trainer = trainer

    def post_train(self, cfg: Any, model: Any) -> None:
        """Leave beside the adapter which prompt it learnt, and what the trainer logged.

        Evaluation refuses another prompt. The last checkpoint's own log is written before the last
        evaluation, so that its loss would be lost.
        """
        trainer, self._trainer = self._trainer, None
        if trainer is not None and trainer.is_world_process_zero():
            trainer.state.save_to_json(str(Path(cfg["output_dir"]) / "trainer_state.json"))
        with whole_file(Path(cfg["output_dir"]) / TRAINED_WITH) as file:
            json.dump({"instruction": cfg["summarization"]["instruction"]}, file)


def use_all_cores() -> None:
    """Share the cores among the processes; `accelerate launch` asks for one thread each."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // processes))


def keep_freed_memory() -> None:
    """Tell glibc to reuse large freed blocks: up to half of a step went into page faults."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):  # another C library: slower, still right
        return


def bf16_is_faster(size: int = 768, rounds: int = 5) -> bool:
    """Measure on this CPU whether a bf16 matrix product beats fp32, as it does with AVX512-BF16.

    It is three times as fast there and a third as fast elsewhere, so noise does not decide.
    """

    def best_time(dtype: torch.dtype) -> float:
        a, b = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - start)
        return min(times)

    return best_time(torch.bfloat16) < best_time(torch.float32)
