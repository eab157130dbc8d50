"""Measure recipes on this machine's GPUs: kernels, speed, memory, minutes of the full run.

    python -m scripts.bench_gpu                       # all variants, most useful first
    python -m scripts.bench_gpu --variants check,ours,notebook --memory-cap 40
    python -m scripts.bench_gpu --keep /dev/shm/bench --limit-seconds 460 --variant-seconds 120

`check` compares the kernels with float64. Each training runs Axolotl's own launch line for some
steps, on the recipe's model with random weights (speed and memory do not depend on their values),
with Mistral's real tokenizer, on rows as long as SAMSum's. `generation` compares our batching with
one dialogue at a time. `results/bench_gpu.json` is written after every variant, and later calls add
to it. A variant that runs out of memory keeps its row; one that exceeds a limit is killed with all
its processes. On a CPU, `--width 64` makes the model tiny: everything runs, but the figures mean
nothing.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import yaml
from pydantic import BaseModel, ValidationError

from data_prep.errors import UserError, atomic_file, run_cli
from data_prep.options import Options
from data_prep.recipe import Recipe, load_recipe
from eval.results import environment
from scripts.dry_run import ROOT, child_environment, training_command
from scripts.random_model import SAMSUM_ROWS, TEST_ROWS, TOKENS_A_ROW, rows_for
from training.machine_checks import count_weights, cpu_overrides

ROWS, TINY_ROWS = 900, 180  # per GPU: more than the steps train on, and than `generation` reads
PLAIN_SECONDS = 20  # of generation one dialogue at a time, per precision
SPARE_SECONDS = 5  # seconds of the total limit, kept for the table and cleaning up
LEAST_SECONDS = 45  # seconds that must remain for a variant to start
MODEL_SECONDS = 600  # limit for creating the random model, outside the variants' limits
WARM_UP_STEPS = 2  # untimed steps, which compile and tune kernels and allocate memory
RESULT, CAP = "BENCH_RESULT", "BENCH_CAP_GB"  # environment variables of bench_plugins.py
OURS, QLORA, NOTEBOOK = (
    ROOT / f"recipes/mistral_samsum{end}.yml" for end in ("", "_qlora", "_notebook")
)


# ---- what is measured ----


@dataclass(frozen=True)
class Variant:
    """A training run of a recipe with `overrides` of its keys; or `check` or `generation`.

    `card_gb`: memory of the GPU that the recipe is for; a larger GPU is limited to it.
    `otherwise` names the variant to try if this one fails.
    """

    name: str
    what: str
    recipe: Path = OURS
    overrides: dict[str, Any] = field(default_factory=dict)
    card_gb: float | None = None
    otherwise: str | None = None


NO_KERNELS = dict.fromkeys(
    ("lora_qkv_kernel", "lora_o_kernel", "lora_mlp_kernel", "liger_rms_norm"), False
)
MASK = {"sdpa_varlen": False}  # Axolotl then masks the whole pack instead of calling varlen_attn
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("check", "speed of the card, and its kernels against float64"),
        Variant("ours", "mistral_samsum.yml as it is", card_gb=40, otherwise="plain"),
        # the notebook's paged optimiser uses CUDA managed memory, which can hang a shared GPU;
        # the arithmetic is the same
        Variant("notebook", "mistral_samsum_notebook.yml, its optimizer not paged", NOTEBOOK,
                {"optimizer": "adamw_torch"}, card_gb=40),
        Variant("generation", f"{TEST_ROWS} test dialogues, ours and one at a time"),
        Variant("qlora", "mistral_samsum_qlora.yml", QLORA, card_gb=16),
        Variant("checkpointing", "layers computed twice",
                overrides={"gradient_checkpointing": True}),
        Variant("no kernels", "neither LoRA's nor Liger's", overrides=NO_KERNELS),
        Variant("mask", "a mask over the pack instead of varlen attention", overrides=MASK),
        Variant("no packing", "8 padded rows of similar length instead of a pack",
                overrides={"sample_packing": False, "eval_sample_packing": False,
                           "group_by_length": True, "micro_batch_size": 8}),
        Variant("plain", "no kernels, a mask, the whole card", overrides={**NO_KERNELS, **MASK}),
    )
}  # fmt: skip


class Measured(BaseModel):
    """A variant in `results/bench_gpu.json`; figures not measured are None.

    The figures depend on `settings`: card, model, steps, memory cap, overrides. `seconds` is the
    total, with launch and imports. Memory is in GB, the peak of one process. `mfu` is the share of
    the card's own matrix rate, `minutes` the time of the full run on SAMSum, and `figures` the
    results of `check` and `generation`.
    """

    variant: str
    what: str
    settings: dict[str, Any]
    seconds: float = 0.0
    failed: str | None = None
    tokens_per_second: float | None = None
    seconds_per_step: float | None = None
    allocated: float | None = None
    reserved: float | None = None
    mfu: float | None = None
    minutes: float | None = None
    figures: Any = None


COLUMNS = ["variant", "tokens_per_second", "seconds_per_step", "allocated", "reserved", "mfu",
           "minutes", "failed"]  # fmt: skip


def main() -> None:
    """Run the requested variants; print and write the figures."""
    args = _arguments()
    import torch  # slow, and not needed for --help

    names = args.variants.split(",")
    if unknown := set(names) - VARIANTS.keys():
        raise UserError(f"--variants: unknown {sorted(unknown)}; choose from {','.join(VARIANTS)}")
    if not torch.cuda.is_available() and args.width is None:
        raise UserError("no GPU was found; `--width 64` tries the benchmark on a CPU")
    args.output = args.output.absolute()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # also ends the variant
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(args, folder)
        for name in names:
            bench.measure(VARIANTS[name])
    print(table(bench.found))
    print(f"{args.output}: these figures, with the environment")


def table(found: list[Measured]) -> str:
    """Format the training variants as a table for a terminal."""
    import pandas

    trainings = (row for row in found if row.variant not in ("check", "generation"))
    rows = [row.model_dump(exclude_none=True) for row in trainings]
    frame = pandas.DataFrame(rows, columns=COLUMNS)
    return str(frame.to_string(index=False, na_rep="-", float_format="{:,.2f}".format))


def _arguments() -> argparse.Namespace:
    parser = Options(
        "scripts.bench_gpu", __doc__.splitlines()[0], "--output results/bench_gpu.json",
        "--variants check,ours --steps 6 --memory-cap 24 --keep /scratch",
        "--width 64 --variant-seconds 600 --limit-seconds 3600",
    )  # fmt: skip
    add = parser.add_argument
    add("--variants", default=",".join(VARIANTS), help="names separated by commas (default: all)")
    add("--steps", type=int, default=12, help="optimiser steps per training")
    add("--memory-cap", type=float, metavar="GB", help="limit memory to a GPU of this size; 0: no "
        "limit (default: the GPU that each recipe is for)")  # fmt: skip
    add("--width", type=int, help="use a model of this width, to try it on a CPU (default: the "
        "real one)")  # fmt: skip
    add("--keep", type=Path, metavar="FOLDER", help="keep model and rows (15 GB) there for later "
        "calls (default: remove them)")  # fmt: skip
    add("--variant-seconds", type=float, default=1800, help="limit for each process of a variant")
    add("--limit-seconds", type=float, default=86400, help="limit for everything")
    add("--output", type=Path, default=Path("results/bench_gpu.json"), help="JSON file")
    return parser.parse_args()


class Bench:
    """One call: its folder, its limits, and the record that it adds to."""

    def __init__(self, args: argparse.Namespace, place: Path):
        """Read the record of an earlier call, if there is one."""
        import torch

        self.args, self.place, self.start = args, place, time.monotonic()
        self.gpus = max(1, torch.cuda.device_count())
        self.card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        self.model, self.result = place / f"model-{args.width or 'whole'}", place / "result.json"
        self.found: list[Measured] = []
        if args.output.is_file():
            try:
                rows = json.loads(args.output.read_text("utf-8"))["variants"]
                self.found = [Measured(**row) for row in rows]
            except (ValueError, LookupError, TypeError, ValidationError) as error:
                raise UserError(
                    f"{args.output}: is not a record of this benchmark; move it, or choose another "
                    "--output"
                ) from error

    def left(self) -> float:
        """Return the seconds left of the total limit."""
        return float(self.args.limit_seconds - SPARE_SECONDS - (time.monotonic() - self.start))

    def measure(self, variant: Variant) -> None:
        """Measure a variant and add it to the record, replacing an earlier one on this card.

        An error does not end the call: the next variant may not need what this one lacks.
        """
        args, start = self.args, time.monotonic()
        cap = variant.card_gb if args.memory_cap is None else args.memory_cap
        settings = {"card": self.card, "gpus": self.gpus, "width": args.width, "steps": args.steps,
                    "cap_gb": cap or None, "overrides": variant.overrides}  # fmt: skip
        row = Measured(variant=variant.name, what=variant.what, settings=settings)
        self.found = [
            other
            for other in self.found
            if (other.variant, other.settings["card"]) != (variant.name, self.card)
        ]
        try:
            if self.left() < LEAST_SECONDS:
                row.failed = f"not started: {self.left():.0f} s remained"
            elif variant.name == "check":
                check = [sys.executable, "-m", "scripts.bench_check", "--output", str(self.result)]
                row.failed, row.figures = self.run(variant.name, check, self.place)
            elif variant.name == "generation":
                self.generate(variant, row)
            else:
                self.train(variant, row)
        except Exception as error:
            traceback.print_exc()
            row.failed = f"{type(error).__name__}: {error}"[:200]
        row.seconds = time.monotonic() - start
        self.found.append(row)
        rows = [measured.model_dump(exclude_none=True) for measured in self.found]
        with atomic_file(self.args.output) as file:
            json.dump({"environment": environment(self.gpus), "variants": rows}, file, indent=1)
        print(f"{variant.name} ({variant.what}): {row.failed or 'done'}, {row.seconds:.0f} s",
              flush=True)  # fmt: skip
        if row.failed and variant.otherwise:
            self.measure(VARIANTS[variant.otherwise])

    def folder(self, recipe: Recipe) -> Path:
        """Return the folder of a recipe's rows; rows and random model are made once."""
        if not self.model.is_dir():  # complete if it exists under this name
            partial = self.model.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            command = [sys.executable, "-m", "scripts.random_model", str(OURS), str(partial)]
            command += ["--width", str(self.args.width)] if self.args.width else []
            if failed := self.run("model", command, self.place, at_most=MODEL_SECONDS)[0]:
                raise UserError(f"the random model could not be created: {failed}")
            partial.replace(self.model)
        rows = self.gpus * (TINY_ROWS if self.args.width else ROWS)
        return rows_for(recipe, self.model, self.place, rows)

    def generate(self, variant: Variant, row: Measured) -> None:
        """Measure generation: ours in bf16; one at a time in fp32, as the notebook, and in bf16."""
        folder = self.folder(load_recipe(variant.recipe))
        config = yaml.safe_load(OURS.read_text("utf-8"))
        block = config["summarization"]
        config["base_model"] = str(self.model)
        block |= {"source": str(folder / "source"), "train_rows": "all"}
        if self.args.width:
            block["decoding"] |= {"max_new_tokens": 8, "batch_tokens": 4096}
        path = folder / OURS.name
        path.write_text(yaml.safe_dump(config), "utf-8")
        command = [sys.executable, "-m", "scripts.bench_cpu", str(path), "--steps", "0"]
        command += ["--dialogues", "0", "--models", "base", "--dtype", "bfloat16"]
        command += ["--plain-dtype", "float32,bfloat16", "--output", str(self.result)]
        command += ["--plain-seconds", str(1 if self.args.width else PLAIN_SECONDS)]
        row.failed, row.figures = self.run(variant.name, command, folder)

    def train(self, variant: Variant, row: Measured) -> None:
        """Train some steps through Axolotl's launch line; only its flags differ from a real run."""
        recipe = load_recipe(variant.recipe)
        folder = self.folder(recipe)
        overrides = dict(variant.overrides)
        if self.card == "CPU":
            overrides |= cpu_overrides({**recipe.config, **overrides})
            overrides |= {"bf16": False} if recipe.config.get("bf16") else {}
        outputs = folder / "outputs" / variant.name.replace(" ", "_")
        shutil.rmtree(outputs, ignore_errors=True)  # or the plugin would resume an interrupted run
        flags = {
            "base_model": self.model,
            "summarization__source": folder / "source",
            "summarization__train_rows": "all",
            "plugins": json.dumps([*recipe.config["plugins"], "scripts.bench_plugins.BenchPlugin"]),
            "max_steps": self.args.steps, "eval_strategy": "no", "save_strategy": "no",
            "logging_steps": 1, "output_dir": outputs, **overrides,
        }  # fmt: skip
        command = training_command(recipe, flags, self.gpus)
        cap = str(row.settings["cap_gb"] or "")
        row.failed, figures = self.run(variant.name, command, folder, cap)
        if not figures:
            return
        for key, value in figures.items():
            setattr(row, key, value)
        block, speed = recipe.summarization, figures["tokens_per_second"]
        rows = SAMSUM_ROWS if block.train_rows == "all" else block.train_rows
        row.minutes = rows * TOKENS_A_ROW * recipe.config["num_epochs"] / speed / 60
        config = {**recipe.config, **overrides, "base_model": str(self.model)}
        operations = operations_a_token(replace(recipe, config=config))
        on_card = [other for other in self.found if other.settings["card"] == row.settings["card"]]
        checks = [other.figures or {} for other in on_card if other.variant == "check"]
        if checks and (rate := checks[0].get("speed", {}).get("product")):
            row.mfu = speed * operations / rate / self.gpus

    def run(
        self,
        name: str,
        command: list[str],
        folder: Path,
        cap: str = "",
        at_most: float | None = None,
    ) -> tuple[str | None, Any]:
        """Run a process within the limits; return why it failed, in one line, and the figures.

        The figures are the content of `result`, also if a later part hit a limit. The output is
        kept beside the record, as `bench_gpu.<name>.log`.
        """
        log = self.args.output.with_suffix(f".{name.replace(' ', '_')}.log")
        self.result.unlink(missing_ok=True)
        env = child_environment() | {RESULT: str(self.result), CAP: cap}
        limit = min(self.left(), at_most or self.args.variant_seconds)
        code = run_within(command, folder, env, log, limit)
        figures = json.loads(self.result.read_text("utf-8")) if self.result.is_file() else None
        if code == 0:
            return None, figures
        text = log.read_text("utf-8", "replace")
        if code is None:
            return f"over the limit of {limit:.0f} s", figures
        # not "memory ran out: continuing with ...", after which generation continues
        if re.search(r"memory (ran out(?!: )|runs out)|OutOfMemoryError", text):
            return "out of memory", figures
        print(text[-3000:], file=sys.stderr)
        lines = [line for line in text.splitlines() if "rror" in line] or [text[-200:] or "?"]
        return next((x for x in lines if x.startswith("error:")), lines[-1])[:200], figures


def operations_a_token(recipe: Recipe) -> float:
    """Return the floating-point operations per trained token, without attention.

    Two per weight forward and two backward, and two more per adapter weight for its gradient;
    checkpointing repeats the layers' forward pass.
    """
    weights = count_weights(recipe)
    operations = 4 * (weights.linear + weights.head) + 6 * weights.adapter
    if recipe.config.get("gradient_checkpointing"):
        operations += 2 * (weights.linear + weights.adapter)
    return operations


def run_within(
    command: list[str], folder: Path, env: dict[str, str], log: Path, seconds: float
) -> int | None:
    """Run a command with its output in `log`; return its exit status, or None if over the limit.

    Its processes are always killed at the end, also if this process ends (Ctrl-C, SIGTERM). SIGKILL
    is used because training answers a gentler signal with a checkpoint. torchrun puts its processes
    into separate sessions, so the process tree is followed as well as the process group.
    """
    with log.open("w", encoding="utf-8") as out:
        child = subprocess.Popen(
            command, cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            return child.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            return None
        finally:
            tree: list[psutil.Process] = []
            with contextlib.suppress(psutil.NoSuchProcess):
                tree = psutil.Process(child.pid).children(recursive=True)
            with contextlib.suppress(ProcessLookupError):  # the whole group has ended
                os.killpg(child.pid, signal.SIGKILL)
            for process in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            child.wait()
            psutil.wait_procs(tree, timeout=10)


# ---- in the training process ----


if __name__ == "__main__":
    run_cli(main)
