"""The Axolotl plugin of scripts/bench_gpu.py: counts and times whole optimiser steps."""

import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import torch
from axolotl.integrations.base import BasePlugin
from transformers import TrainerCallback

RESULT, CAP = "BENCH_GPU_RESULT", "BENCH_GPU_CAP_GB"
WARM_UP = 2  # steps that are not timed: kernels are compiled and tuned, memory is fetched
COUNTS = ("tokens", "trained", "rows")


class BenchPlugin(BasePlugin):
    """Caps memory before the model is loaded, and hands the trainer to `Clock`."""

    def pre_model_load(self, cfg: Any) -> None:
        """Axolotl calls it before loading: limit memory to that of a smaller card."""
        if os.environ.get(CAP) and torch.cuda.is_available():
            whole = torch.cuda.get_device_properties(0).total_memory
            share = min(1.0, float(os.environ[CAP]) * 1e9 / whole)
            torch.cuda.set_per_process_memory_fraction(share)

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Axolotl calls it before training: count the tokens, and time the optimiser's steps."""
        clock = Clock(trainer)
        step = trainer.training_step

        def counted(model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            clock.count(inputs)
            return step(model, inputs, *args, **kwargs)

        trainer.training_step = counted
        trainer.add_callback(clock)


class Clock(TrainerCallback):
    """Time and counts of all steps after the first ones; peak memory of all steps."""

    def __init__(self, trainer: Any):
        """`trainer`: its tokenizer says what padding is and where a row begins."""
        tokenizer = trainer.processing_class
        self.pad, self.first = tokenizer.pad_token_id, tokenizer.bos_token_id
        self.now = dict.fromkeys(COUNTS, 0)
        self.all = dict.fromkeys(COUNTS, 0)
        self.seconds, self.steps, self.start = 0.0, 0, 0.0

    def count(self, inputs: dict[str, torch.Tensor]) -> None:
        """Tokens without padding, those in the loss, and rows, which begin with BOS."""
        ids = inputs["input_ids"]
        self.now["tokens"] += int((ids != self.pad).sum())
        self.now["trained"] += int((inputs["labels"] != -100).sum())
        self.now["rows"] += int((ids == self.first).sum())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give back what loading left in the cache (of NF4: the layers in bf16).

        Peak memory counts from here, and over the first steps too: `group_by_length` puts the
        longest batch there.
        """
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The clock of a step starts where the one before it ended."""
        if state.global_step == WARM_UP:
            finish()
            self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add this step's counts."""
        if state.global_step > WARM_UP:
            finish()
            self.seconds, self.steps = time.perf_counter() - self.start, self.steps + 1
            self.all = {name: self.all[name] + self.now[name] for name in COUNTS}
        self.now = dict.fromkeys(COUNTS, 0)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what was measured, of all processes together."""
        counts = torch.tensor([self.all[name] for name in COUNTS], device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(counts)
        tokens, trained, rows = counts.tolist()
        if state.is_world_process_zero:
            found = {
                "tokens_per_second": tokens / self.seconds,
                "trained_per_second": trained / self.seconds,
                "rows_per_second": rows / self.seconds,
                "seconds_per_step": self.seconds / self.steps, **peak(),
            }  # fmt: skip
            Path(os.environ[RESULT]).write_text(json.dumps(found), "utf-8")


def peak() -> dict[str, float]:
    """GB of a GPU since the last reset; on a CPU the whole program's, as the system saw it."""
    if torch.cuda.is_available():
        return {"allocated": torch.cuda.max_memory_allocated() / 1e9,
                "reserved": torch.cuda.max_memory_reserved() / 1e9}  # fmt: skip
    return {"reserved": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def finish() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
