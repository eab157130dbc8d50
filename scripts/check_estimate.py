"""Hold preflight's estimates of memory and time against real training steps on a CPU.

    python scripts/check_estimate.py recipes/smollm2_samsum.yml

Trains the recipe for a few steps at a time, in both precisions, with one, four and eight rows, with
and without gradient checkpointing, on one core. Prepare the data first.

Memory is what the process has in its memory above what it had before the model was loaded. In the
first steps glibc gives freed memory back at once, so that this is what PyTorch holds (`tensors`);
in the others our plugin has told it not to, for speed (`all`). Time is CPU time from the end of one
step to the end of the next, so that other programs disturb it little.
"""

import argparse
import ctypes
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from axolotl.integrations.base import BasePlugin

from data_prep.errors import UserError
from data_prep.machine import keep_freed_memory
from data_prep.recipe import load_recipe
from training.estimate import estimate_memory, operations_a_token, rate_of, shape_of
from training.plan import lengths, plan

RESULT = "CHECK_ESTIMATE_RESULT"
GIVEN_BACK, KEPT = 3, 4  # steps of each way to free memory
CASES = list(itertools.product((1, 4, 8), (2, 4), (False, True)))
HEAD = "| rows | precision | checkpointing | tokens | tensors GB | all GB | s a step |"


def main() -> None:
    """Run every case and print one line each: estimate, measurement and error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    recipe = load_recipe(parser.parse_args().recipe)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(HEAD + "\n" + "|---" * HEAD.count("| ") + "|", flush=True)
    counts, shape = lengths(recipe)["train"], shape_of(recipe)
    if shape is None:
        raise UserError(f"{recipe.path}: the base model's config.json cannot be had")
    errors: dict[str, list[float]] = {"tensors": [], "all": [], "time": []}
    for rows, size, checkpointing in CASES:
        keys = {"micro_batch_size": rows, "gradient_checkpointing": checkpointing}
        config = {**recipe.config, **keys, "bf16": size == 2}
        steps = train(config)
        whole = plan(replace(recipe, config=config), counts)
        rate, cells = rate_of(size, gpu=False), []

        def expected(step: dict[str, Any], whole: Any = whole, config: Any = config) -> Any:
            tokens, longest = step["tokens"], step["longest"]
            return replace(whole, largest_batch=tokens, longest_row=longest, attended=longest)

        biggest = max(steps[1:GIVEN_BACK], key=lambda step: step["tokens"])
        memory = estimate_memory(config, shape, expected(biggest), size, gpu=False)
        cells.append(cell(memory.tensors / 1e9, biggest["peak"] / 1e9, errors["tensors"]))
        kept = steps[GIVEN_BACK:]
        largest = max(kept, key=lambda step: step["tokens"])
        memory = estimate_memory(config, shape, expected(largest), size, gpu=False)
        peak = max(step["peak"] for step in kept)
        cells.append(cell(memory.total / 1e9, peak / 1e9, errors["all"]))
        timed = kept[1:]
        work = [operations_a_token(config, shape, expected(s)) * s["tokens"] for s in timed]
        took = sum(step["seconds"] for step in timed) / len(timed)
        cells.append(cell(sum(work) / len(work) / rate.training, took, errors["time"]))
        name = {2: "bf16", 4: "fp32"}[size]
        print(f"| {rows} | {name} | {'yes' if checkpointing else 'no'} | {biggest['tokens']:,} | "
              + " | ".join(cells) + " |", flush=True)  # fmt: skip
    for name, found in errors.items():
        print(f"{name}: estimate against measurement {min(found):+.0%} to {max(found):+.0%}")


def cell(estimate: float, measured: float, errors: list[float]) -> str:
    """`estimate / measured (error)`."""
    errors.append(estimate / measured - 1)
    return f"{estimate:.2f} / {measured:.2f} ({errors[-1]:+.0%})"


def train(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Tokens, longest row, peak bytes and CPU seconds of each step of a short training."""
    with tempfile.TemporaryDirectory() as folder:
        recipe, result = Path(folder) / "check.yml", Path(folder) / "result.json"
        config = {**config, "plugins": [*config["plugins"], "scripts.check_estimate.CheckPlugin"],
                  "max_steps": GIVEN_BACK + KEPT, "output_dir": f"{folder}/output",
                  "eval_strategy": "no", "save_strategy": "no"}  # fmt: skip
        config.pop("save_steps", None)
        recipe.write_text(yaml.safe_dump(config), "utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "accelerate.commands.launch", "-m", "axolotl.cli.train", recipe],
            env={**os.environ, "AXOLOTL_DO_NOT_TRACK": "1", RESULT: str(result)},
            capture_output=True, text=True,
        )  # fmt: skip
        if not result.is_file():
            sys.exit(f"check_estimate: training failed:\n{done.stderr[-3000:]}")
        return json.loads(result.read_text("utf-8"))


class CheckPlugin(BasePlugin):
    """Notes what each step takes."""

    before, peak = 0, 0

    def pre_model_load(self, cfg: Any) -> None:
        """Note what the program takes without a model, and start to watch."""
        self.before = resident()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, resident())
            time.sleep(0.005)

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Wrap `training_step`, and change how memory is freed between two of them."""
        steps: list[dict[str, Any]] = []
        step_of_trainer = trainer.training_step
        give_back_freed_memory()
        clock = {"end": time.process_time()}

        def watched(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            if len(steps) == GIVEN_BACK:
                keep_freed_memory()
            self.peak = 0
            loss = step_of_trainer(model, inputs, *args, **kwargs)
            now = time.process_time()
            ids = inputs["input_ids"]
            steps.append(
                {
                    "tokens": ids.numel(),
                    "longest": ids.shape[1],
                    "peak": self.peak - self.before,
                    "seconds": now - clock["end"],
                }
            )
            clock["end"] = now
            Path(os.environ[RESULT]).write_text(json.dumps(steps), "utf-8")
            return loss

        trainer.training_step = watched


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


def give_back_freed_memory() -> None:
    """Tell glibc to do as it does by itself."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(m_mmap_threshold, 128 << 10)
    libc.mallopt(m_trim_threshold, 128 << 10)
    libc.malloc_trim(0)


if __name__ == "__main__":
    main()
