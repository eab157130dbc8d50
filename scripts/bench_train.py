"""Compare Axolotl's useful tokens/s on this machine with a bare PyTorch loop of the same model.

    python scripts/bench_train.py recipes/smollm2_samsum.yml --steps 24

Axolotl trains the recipe as it stands. After each of its steps the bare loop does forward and
backward on a batch with as many tokens and no padding, on the same weights in the same precision,
so that a machine whose speed drifts treats both alike. Useful tokens are those of the rows, padding
left out; Axolotl's time is a whole step: data, forward, backward, optimiser, logging. Prepare the
data first.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from axolotl.integrations.base import BasePlugin

WARM_UP = 3  # steps left out: kernels are compiled, memory is fetched
RESULT = "BENCH_TRAIN_RESULT"


def main() -> None:
    """Run the benchmark and print one line a side and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/smollm2_samsum.yml"))
    parser.add_argument("--steps", type=int, default=24, help=f"above {WARM_UP}; default 24")
    args = parser.parse_args()
    config = yaml.safe_load(args.recipe.read_text("utf-8"))
    config["plugins"].append("scripts.bench_train.BenchPlugin")
    with tempfile.TemporaryDirectory() as folder:
        recipe, result = Path(folder) / "bench.yml", Path(folder) / "result.json"
        config["output_dir"] = f"{folder}/output"
        config |= {"max_steps": args.steps, "eval_strategy": "no", "save_strategy": "no"}
        config.pop("save_steps", None)
        recipe.write_text(yaml.safe_dump(config), "utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "accelerate.commands.launch", "-m", "axolotl.cli.train", recipe],
            env={**os.environ, "AXOLOTL_DO_NOT_TRACK": "1", RESULT: str(result)},
            capture_output=True, text=True,
        )  # fmt: skip
        if not result.is_file():
            sys.exit(f"bench_train: training failed:\n{done.stderr[-3000:]}")
        show(json.loads(result.read_text("utf-8")))


def show(steps: list[dict[str, float]]) -> None:
    """Print useful tokens/s of both sides over the steady steps, and their ratio."""
    steady = steps[WARM_UP:]
    useful = sum(step["useful"] for step in steady)
    processed = sum(step["processed"] for step in steady)
    axolotl = useful / sum(step["axolotl_s"] for step in steady)
    bare = useful / sum(step["bare_s"] for step in steady)
    ratios = [step["bare_s"] / step["axolotl_s"] for step in steady]
    print(f"{len(steady)} steps, {useful:.0f} useful of {processed:.0f} processed tokens")
    print(f"axolotl: {axolotl:.0f} useful tokens/s")
    print(f"bare:    {bare:.0f} useful tokens/s")
    print(f"ratio:   {axolotl / bare:.2f} (median of the steps {statistics.median(ratios):.2f})")


class BenchPlugin(BasePlugin):
    """Times the trainer's steps, and a bare step after each."""

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Wrap `training_step`; one optimiser step must be one call of it."""
        if cfg.gradient_accumulation_steps != 1 or cfg.sample_packing:
            raise SystemExit("bench_train: needs gradient_accumulation_steps 1 and no packing")
        steps: list[dict[str, float]] = []
        step_of_trainer, bare_step = trainer.training_step, bare(trainer, cfg)
        clock = {"end": time.perf_counter()}

        def timed(model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            lengths = inputs["attention_mask"].sum(dim=1)
            loss = step_of_trainer(model, inputs, *args, **kwargs)
            finish()
            now = time.perf_counter()
            bare_s = bare_step(len(lengths), round(lengths.float().mean().item()))
            steps.append(
                {"useful": lengths.sum().item(), "processed": inputs["input_ids"].numel(),
                 "axolotl_s": now - clock["end"], "bare_s": bare_s}
            )  # fmt: skip
            Path(os.environ[RESULT]).write_text(json.dumps(steps), "utf-8")
            clock["end"] = time.perf_counter()
            return loss

        trainer.training_step = timed


def finish() -> None:
    """Wait for what a GPU still has to do; on a CPU nothing is left by then."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bare(trainer: Any, cfg: Any) -> Any:
    """Return a function that times forward and backward of `rows` x `length` random tokens."""
    model = copy.deepcopy(trainer.model).train()
    low_precision = bool(cfg.bf16)
    generator = torch.Generator().manual_seed(0)

    def step(rows: int, length: int) -> float:
        ids = torch.randint(0, model.config.vocab_size, (rows, length), generator=generator)
        ids = ids.to(model.device)
        start = time.perf_counter()
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=low_precision):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        finish()
        elapsed = time.perf_counter() - start
        model.zero_grad()
        return elapsed

    return step


if __name__ == "__main__":
    main()
