"""Compare training and generation on this machine with the plain way.

    python -m scripts.bench_cpu recipes/smollm2_samsum.yml --steps 24 --dialogues 40

Training: Axolotl trains the recipe as it is. After each of its steps a bare PyTorch loop does
forward and backward on a batch of as many tokens without padding, with the same weights in the same
precision, so that a machine whose speed drifts treats both alike. Useful tokens are those of the
rows, padding left out; Axolotl's time is a whole step: data, forward, backward, optimiser, logging.
Generation: see scripts/bench_generate.py; it needs a trained adapter, or `--models base`. Prepare
the data first.
"""

import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from axolotl.integrations.base import BasePlugin

from data_prep.errors import UserError, run_cli
from data_prep.options import Options
from data_prep.recipe import load_recipe
from scripts.bench_generate import ENGINES, compare_generation

WARM_UP = 3  # steps left out: kernels are compiled, memory is fetched
RESULT = "BENCH_CPU_RESULT"


def main() -> None:
    """Run both comparisons."""
    parser = Options(
        "scripts.bench_cpu", __doc__.splitlines()[0],
        "recipes/smollm2_samsum.yml --steps 24 --dialogues 40 --models both",
        "--steps 0 --models base --dtype bfloat16,float32 --engines hf --plain-seconds 60",
    )  # fmt: skip
    add = parser.add_argument
    add("recipe", type=Path, nargs="?", default=Path("recipes/smollm2_samsum.yml"), help="its file")
    add("--steps", type=int, default=24, help=f"of training: 0, or above {WARM_UP}")
    add("--dialogues", type=int, default=40, help="of the test split, 0 for all")
    add("--models", default="both", help="of generation: base, tuned, both, or none")
    add("--dtype", default="auto", help="auto, bfloat16, float32, or several with commas")
    add("--engines", default="hf", help=f"several of {','.join(ENGINES)}")
    add("--plain-seconds", type=float,
        help="then plain generation ends (default: with the last dialogue)")  # fmt: skip
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    if 0 < args.steps <= WARM_UP:
        raise UserError(f"--steps: {args.steps}; use 0 for no training, or more than {WARM_UP}")
    if args.steps:
        compare_training(args.recipe, args.steps)
    if args.models != "none":
        models = args.models.replace("both", "base,tuned").split(",")
        compare_generation(
            recipe, models, args.dialogues, args.dtype.split(","), ["float32"],
            args.plain_seconds, engines=args.engines.split(","),
        )  # fmt: skip


def compare_training(path: Path, steps: int) -> None:
    """Train some steps with `BarePlugin`; print useful tokens/s of both sides, and their ratio."""
    config = yaml.safe_load(path.read_text("utf-8"))
    if config.get("gradient_accumulation_steps", 1) != 1 or config.get("sample_packing"):
        raise UserError(f"{path}: needs gradient_accumulation_steps 1 and no packing here")
    config["plugins"].append("scripts.bench_cpu.BarePlugin")
    with tempfile.TemporaryDirectory() as folder:
        recipe, result = Path(folder) / "bench.yml", Path(folder) / "result.json"
        config["output_dir"] = f"{folder}/output"
        config |= {"max_steps": steps, "eval_strategy": "no", "save_strategy": "no"}
        config.pop("save_steps", None)
        recipe.write_text(yaml.safe_dump(config), "utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "accelerate.commands.launch", "-m", "axolotl.cli.train", recipe],
            env={**os.environ, RESULT: str(result)}, capture_output=True, text=True,
        )  # fmt: skip
        if not result.is_file():
            raise UserError(f"{path}: the training failed: {done.stderr[-3000:]}")
        timed = json.loads(result.read_text("utf-8"))[WARM_UP:]
    useful = sum(step["useful"] for step in timed)
    axolotl = useful / sum(step["axolotl_s"] for step in timed)
    bare = useful / sum(step["bare_s"] for step in timed)
    processed = sum(step["processed"] for step in timed)
    print(f"{len(timed)} steps, {useful:.0f} useful of {processed:.0f} processed tokens")
    print(f"axolotl {axolotl:.0f}, bare {bare:.0f} useful tokens/s: ratio {axolotl / bare:.2f}")


class BarePlugin(BasePlugin):
    """An Axolotl plugin that times the trainer's steps, and a bare step after each."""

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Axolotl calls it once, before training: wrap `training_step`."""
        steps: list[dict[str, float]] = []
        step_of_trainer, bare_step = trainer.training_step, _bare_step(trainer, bool(cfg.bf16))
        end = time.perf_counter()

        def timed(model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            nonlocal end
            lengths = inputs["attention_mask"].sum(dim=1)
            loss = step_of_trainer(model, inputs, *args, **kwargs)
            now = time.perf_counter()
            bare_s = bare_step(len(lengths), round(lengths.float().mean().item()))
            steps.append(
                {"useful": lengths.sum().item(), "processed": inputs["input_ids"].numel(),
                 "axolotl_s": now - end, "bare_s": bare_s}
            )  # fmt: skip
            Path(os.environ[RESULT]).write_text(json.dumps(steps), "utf-8")
            end = time.perf_counter()
            return loss

        trainer.training_step = timed


def _bare_step(trainer: Any, low_precision: bool) -> Any:
    """A function that times forward and backward of `rows` x `length` random tokens."""
    model = copy.deepcopy(trainer.model).train()
    generator = torch.Generator().manual_seed(0)

    def step(rows: int, length: int) -> float:
        ids = torch.randint(0, model.config.vocab_size, (rows, length), generator=generator)
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low_precision):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        elapsed = time.perf_counter() - start
        model.zero_grad()
        return elapsed

    return step


if __name__ == "__main__":
    run_cli(main)
