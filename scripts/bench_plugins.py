"""Axolotl plugins that time a training for scripts/bench_cpu.py and scripts/bench_gpu.py.

A module of their own, so that the benchmarks' `--help` does not import Axolotl.
"""

import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from axolotl.integrations.base import BasePlugin
from transformers import TrainerCallback

from data_prep.machine import usage
from scripts.bench_gpu import CAP, RESULT, WARM_UP_STEPS


class BarePlugin(BasePlugin):
    """An Axolotl plugin that times the trainer's steps, and a bare step after each."""

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Wrap `training_step`; Axolotl calls this once, before training."""
        steps: list[dict[str, float]] = []
        step_of_trainer, model = trainer.training_step, copy.deepcopy(trainer.model).train()
        generator = torch.Generator().manual_seed(0)
        end = time.perf_counter()

        def bare_step(rows: int, length: int) -> float:
            """Return the seconds of forward and backward on random tokens."""
            ids = torch.randint(0, model.config.vocab_size, (rows, length), generator=generator)
            start = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(cfg.bf16)):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            elapsed = time.perf_counter() - start
            model.zero_grad()
            return elapsed

        def timed(model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            nonlocal end
            lengths = inputs["attention_mask"].sum(dim=1)
            loss = step_of_trainer(model, inputs, *args, **kwargs)
            axolotl_s = time.perf_counter() - end
            bare_s = bare_step(len(lengths), round(lengths.float().mean().item()))
            steps.append(
                {"useful": lengths.sum().item(), "processed": inputs["input_ids"].numel(),
                 "axolotl_s": axolotl_s, "bare_s": bare_s}
            )  # fmt: skip
            Path(os.environ[RESULT]).write_text(json.dumps(steps), "utf-8")
            end = time.perf_counter()
            return loss

        trainer.training_step = timed


class BenchPlugin(BasePlugin):
    """An Axolotl plugin that caps memory before the model is loaded, and times the steps."""

    def pre_model_load(self, cfg: Any) -> None:
        """Limit memory to that of a smaller GPU; Axolotl calls this before loading the model."""
        if os.environ.get(CAP) and torch.cuda.is_available():
            card_bytes = torch.cuda.get_device_properties(0).total_memory
            share = min(1.0, float(os.environ[CAP]) * 1e9 / card_bytes)
            torch.cuda.set_per_process_memory_fraction(share)

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Count tokens and time optimiser steps; Axolotl calls this before training."""
        clock, step = Clock(), trainer.training_step
        padding = trainer.processing_class.pad_token_id

        def counted(model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            clock.tokens += int((inputs["input_ids"] != padding).sum())
            return step(model, inputs, *args, **kwargs)

        trainer.training_step = counted
        trainer.args.eval_on_start = False
        trainer.add_callback(clock)


class Clock(TrainerCallback):
    """Time and tokens of the steps after the warm-up; peak memory of all steps."""

    tokens = 0
    start = seconds = 0.0
    reserved = allocated = 0  # bytes; AxolotlTrainer.log resets PyTorch's peaks

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Free memory that loading left in the cache (with NF4: the layers in bf16).

        Peak memory counts from here and includes the warm-up, because `group_by_length` puts the
        longest batch first.
        """
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock at the end of the warm-up, and read it after every later step."""
        now = _now()
        if state.global_step == WARM_UP_STEPS:
            self.tokens, self.start = 0, now
        self.seconds = now - self.start
        if torch.cuda.is_available():
            self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())
            self.allocated = max(self.allocated, torch.cuda.max_memory_allocated())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the figures of all processes together."""
        tokens = torch.tensor(self.tokens, device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(tokens)
        if state.is_world_process_zero:
            figures = {"tokens_per_second": tokens.item() / self.seconds,
                       "seconds_per_step": self.seconds / (state.global_step - WARM_UP_STEPS),
                       "reserved": usage().peak_memory_gb}  # fmt: skip
            if torch.cuda.is_available():
                figures |= {"reserved": self.reserved / 1e9, "allocated": self.allocated / 1e9}
            Path(os.environ[RESULT]).write_text(json.dumps(figures), "utf-8")


def _now() -> float:
    """Return the time once the GPU has finished all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
