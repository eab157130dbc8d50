"""Measure recipes on the GPUs that are here: kernels, speed, memory, minutes of the full run.

    python -m scripts.bench_gpu                       # all variants, in their order of value
    python -m scripts.bench_gpu --variants check,ours,notebook --memory-cap 40
    python -m scripts.bench_gpu --keep /dev/shm/bench --limit-seconds 460 --variant-seconds 120
    torchrun is started by itself where there are several GPUs; --gpus 1 asks for one

`check` compares the kernels with float64. Each training is Axolotl's own for some steps, on the
recipe's model with random weights (speed and memory do not depend on their values), with Mistral's
real tokenizer, on rows as long as SAMSum's; `generation` compares ours with one dialogue at a time.
`results/bench_gpu.json` is written after every variant, and the same call again measures what is
missing for this card and these settings. A variant that runs out of memory keeps its row; one that
exceeds a limit is ended with all its processes. On a CPU, `--width 64` makes the
model tiny, which runs all of this and measures nothing of interest.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep.errors import UserError, run_cli, whole_file
from data_prep.options import Options
from data_prep.recipe import load_recipe
from eval.results import environment
from scripts import bench_variants as variants
from scripts.bench_plugin import CAP, RESULT
from scripts.bench_variants import FALLBACKS, OURS, ROOT, VARIANTS, Variant
from training.plan import with_defaults

COLUMNS = (
    ("variant", "variant"), ("tokens/s", "tokens_per_second"), ("trained/s", "trained_per_second"),
    ("rows/s", "rows_per_second"), ("s a step", "seconds_per_step"), ("allocated GB", "allocated"),
    ("reserved GB", "reserved"), ("MFU", "mfu"), ("full run", "minutes"),
)  # fmt: skip
SPARE = 5  # seconds of the whole limit, kept for the table and the end
MODEL_SECONDS = 600  # of making the random model, which no variant's limit counts
NO_MEMORY = "out of memory"


class Measured(BaseModel):
    """A variant of `results/bench_gpu.json`; what failed or was not measured is None.

    `settings` are what must be the same for it to be measured again or not: card, model, rows,
    steps, memory cap, overrides. `seconds` is the whole of it, launch and imports included. GB are
    peaks of one process; `mfu` is the share of the card's own matrix rate; `minutes` those of the
    full run on SAMSum. `figures` are those of `check` and `generation`.
    """

    model_config = ConfigDict(extra="forbid")

    variant: str
    what: str
    settings: dict[str, Any]
    seconds: float = 0.0
    failed: str | None = None
    tokens_per_second: float | None = None
    trained_per_second: float | None = None
    rows_per_second: float | None = None
    seconds_per_step: float | None = None
    allocated: float | None = None
    reserved: float | None = None
    operations_a_token: float | None = None
    matrix_rate: float | None = None
    mfu: float | None = None
    minutes: float | None = None
    figures: Any = None

    @property
    def is_final(self) -> bool:
        """Whether it tells something of the card; another failure is tried again."""
        return self.failed in (None, NO_MEMORY)


class Bench:
    """One call: its folder, its limits, and the record that it adds to."""

    def __init__(self, args: argparse.Namespace, place: Path):
        """Read the record of an earlier call, if there is one."""
        self.args, self.place, self.start = args, place, time.monotonic()
        gpus = torch.cuda.device_count() if args.gpus is None else args.gpus
        self.gpus, self.model = max(1, gpus), place / f"model-{args.width or 'whole'}"
        self.rows, self.also = args.rows * self.gpus, {}
        for text in args.set:
            key, equals, value = text.partition("=")
            if not (key and equals):
                raise UserError(f"--set: {text!r} is not of the form key=value")
            self.also[key] = yaml.safe_load(value)
        self.found: list[Measured] = []  # of the record
        self.asked: list[Measured] = []  # of this call
        if args.output.is_file():
            try:
                record = json.loads(args.output.read_text("utf-8"))
                self.found = [Measured(**row) for row in record["variants"]]
            except (ValueError, LookupError, TypeError, ValidationError) as error:
                raise UserError(
                    f"{args.output}: is no record of this benchmark; move it, or choose another "
                    "--output"
                ) from error

    def left(self, at_most: float | None = None) -> float:
        """Seconds that the next process may take; of a variant's unless `at_most` is given."""
        whole = self.args.limit_seconds - SPARE - (time.monotonic() - self.start)
        return float(min(whole, at_most or self.args.variant_seconds))

    def measure(self, name: str) -> None:
        """One variant, unless the record holds it; where it fails, the one to try instead."""
        variant = VARIANTS[name]
        settings = self.settings(variant)
        for row in self.found:
            if row.variant == name and row.settings == settings and row.is_final:
                print(f"{name}: measured already, see {self.args.output}", flush=True)
                return self.asked.append(row)
        row = Measured(variant=name, what=variant.what, settings=settings)
        begin = time.monotonic()
        if self.left() < variant.least and self.args.width is None:
            row.failed = f"not started: {self.left():.0f} s remained"
        else:
            kinds = {"check": self.check, "generation": self.generate}
            try:
                kinds.get(name, self.train)(variant, row)
            except (OSError, ValueError, LookupError) as error:  # the others may work
                traceback.print_exc()
                row.failed = f"{type(error).__name__}: {error}"[:200]
        row.seconds = time.monotonic() - begin
        self.found = [r for r in self.found if (r.variant, r.settings) != (name, settings)] + [row]
        self.asked.append(row)
        rows = [one.model_dump(exclude_none=True) for one in self.found]
        record = {"environment": environment(), "variants": rows}
        with whole_file(self.args.output) as file:
            json.dump(record, file, indent=1)
        speed = row.tokens_per_second
        said = row.failed or (f"{speed:,.0f} tokens/s" if speed else "done")
        print(f"{name} ({variant.what}): {said}, {row.seconds:.0f} s", flush=True)
        if row.failed and variant.otherwise and not self.args.width:
            self.measure(variant.otherwise)

    def settings(self, variant: Variant) -> dict[str, Any]:
        """What a figure of this variant depends on, the machine included."""
        cap = self.args.memory_cap if self.args.memory_cap is not None else variant.card_gb
        card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        found = {"card": card, "gpus": self.gpus, "width": self.args.width}
        if variant.name != "check":
            overrides = {**self.also, **variant.overrides}
            found |= {"rows": self.rows, "cap_gb": cap or None, "overrides": overrides}
            found["steps"] = self.args.steps * variant.steps
        return found

    def folder(self, variant: Variant) -> Path:
        """The folder of the rows for a variant's recipe; rows and random model are made once."""
        if not self.model.is_dir():  # a folder of this name is whole
            partial = self.model.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            command = [sys.executable, "-m", "scripts.random_model", str(OURS)]
            command.append(str(partial))
            command += ["--width", str(self.args.width)] if self.args.width else []
            if failed := self.run(command, self.place, {}, MODEL_SECONDS):
                raise UserError(f"the random model could not be made: {failed}")
            partial.replace(self.model)
        return variants.rows_for(load_recipe(variant.recipe), self.model, self.place, self.rows)

    def check(self, variant: Variant, row: Measured) -> None:
        """Kernels and speed of the card; what is wrong fails the row, the figures stay."""
        result = self.place / "check.json"
        result.unlink(missing_ok=True)
        command = [sys.executable, "-m", "scripts.bench_check", "--output", str(result)]
        failed = self.run(command, self.place, {})
        row.figures = json.loads(result.read_text("utf-8")) if result.is_file() else {}
        wrong = [name for name, figures in row.figures.items() if "failed" in figures]
        row.failed = f"{', '.join(wrong)}: {row.figures[wrong[0]]['failed']}" if wrong else failed

    def generate(self, variant: Variant, row: Measured) -> None:
        """Dialogues a second: ours in bf16; one at a time in fp32, as the notebook, and in bf16."""
        folder = self.folder(variant)
        result = folder / "generation.json"
        result.unlink(missing_ok=True)
        config = yaml.safe_load(OURS.read_text("utf-8"))
        block = config["summarization"]
        config["base_model"] = str(self.model)
        block |= {"source": str(folder / "source"), "train_rows": "all"}
        if self.args.width:
            block["decoding"] |= {"max_new_tokens": 8, "batch_tokens": 4096}
        path = folder / OURS.name
        path.write_text(yaml.safe_dump(config), "utf-8")
        command = [sys.executable, "-m", "scripts.bench_generate", str(path), "--output"]
        command += [str(result), "--plain-seconds", str(self.args.plain_seconds)]
        row.failed = self.run(command, folder, {})
        if result.is_file():  # what was over before a limit was reached counts
            row.figures = json.loads(result.read_text("utf-8"))
            for way in row.figures:
                print("  " + ", ".join(f"{k} {_cell(k, v)}" for k, v in way.items()), flush=True)

    def train(self, variant: Variant, row: Measured) -> None:
        """Some steps through Axolotl's launch line."""
        stem = variant.name.replace(" ", "_")
        folder = self.folder(variant)
        recipe, changed = variants.training(variant, self.model, folder, self.also)
        result, outputs = folder / f"{stem}.json", folder / "outputs" / stem
        result.unlink(missing_ok=True)
        shutil.rmtree(outputs, ignore_errors=True)  # or the plugin would resume a run that was cut
        row.operations_a_token = variants.operations_a_token(recipe)
        for other in self.found:  # the rate of a matrix product, as `check` has timed it here
            if other.variant == "check" and other.settings["card"] == row.settings["card"]:
                row.matrix_rate = ((other.figures or {}).get("speed") or {}).get("product")
        steps = row.settings["steps"]
        command = variants.training_command(recipe, changed, folder, stem, steps, self.gpus)
        env = {RESULT: str(result), CAP: str(row.settings["cap_gb"] or "")}
        row.failed = self.run(command, folder, env)
        if row.failed is None and not result.is_file():
            row.failed = "ended without a result"
        if row.failed:
            return
        for key, value in json.loads(result.read_text("utf-8")).items():
            setattr(row, key, value)
        assert row.tokens_per_second and row.operations_a_token
        rows = recipe.summarization.train_rows
        epochs = float(with_defaults(recipe.config)["num_epochs"])
        tokens = (variants.ROWS if rows == "all" else rows) * variants.TOKENS_A_ROW * epochs
        row.minutes = tokens / row.tokens_per_second / 60
        if row.matrix_rate:
            done = row.tokens_per_second * row.operations_a_token
            row.mfu = done / row.matrix_rate / self.gpus

    def run(
        self, command: list[str], folder: Path, more: dict[str, str], at_most: float | None = None
    ) -> str | None:
        """Run a process of a variant within its limits; why it failed, in a line.

        Its output is in the log, that of a failure beside the record too.
        """
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
               "PYTHONPATH": path, **more}  # fmt: skip
        limit, log = self.left(at_most), self.place / "variant.log"
        code = run_within(command, folder, env, log, limit)
        if code == 0:
            return None
        text = log.read_text("utf-8", "replace")
        shutil.copyfile(log, self.args.output.with_suffix(".failed.log"))
        if code is None:
            return f"over the limit of {limit:.0f} s"
        if "memory ran out" in text or "OutOfMemoryError" in text:
            return NO_MEMORY
        lines = [line for line in text.splitlines() if "rror" in line] or [text[-200:] or "?"]
        print(text[-3000:], file=sys.stderr)
        return next((line for line in lines if line.startswith("error:")), lines[-1])[:200]


def run_within(
    command: list[str], folder: Path, env: dict[str, str], log: Path, seconds: float
) -> int | None:
    """Run a command, its output to `log`; its exit status, None where it was over the limit.

    However it ends, and this process with it (Ctrl-C, SIGTERM), its processes end: by SIGKILL, for
    a training answers a gentler signal with a checkpoint. Those of torchrun are in sessions of
    their own, so that the tree is followed as well as the process group.
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
            with contextlib.suppress(ProcessLookupError):  # all of its group have ended
                os.killpg(child.pid, signal.SIGKILL)
            for process in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            child.wait()
            psutil.wait_procs(tree, timeout=10)


def main() -> None:
    """Run every variant that is asked for; print and write what was found."""
    args = _arguments()
    names = args.variants.split(",")
    if unknown := set(names) - VARIANTS.keys():
        raise UserError(f"--variants: unknown {sorted(unknown)}; choose from {','.join(VARIANTS)}")
    if not torch.cuda.is_available() and args.width is None:
        raise UserError("no GPU is here; `--width 64` tries the benchmark on a CPU")
    for name in ("limit_seconds", "variant_seconds"):
        if getattr(args, name) <= 0:
            raise UserError(f"--{name.replace('_', '-')}: {getattr(args, name)} is not above 0")
    args.output = args.output.absolute()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the variant too
    with tempfile.TemporaryDirectory() as temporary:
        place = (args.keep or Path(temporary)).absolute()
        place.mkdir(parents=True, exist_ok=True)
        bench = Bench(args, place)
        for name in names:
            bench.measure(name)
    print(table(bench.asked))
    print(f"{args.output}: the same, with the environment")


def table(found: list[Measured]) -> str:
    """Markdown of all trainings; what a failed one has not is `-`."""
    lines = ["| " + " | ".join(head for head, _ in COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in found:
        if row.variant in ("check", "generation"):
            continue
        cells = [_cell(key, getattr(row, key)) for _, key in COLUMNS]
        note = f" ({row.failed})" if row.failed else ""
        lines.append("| " + " | ".join([cells[0] + note, *cells[1:]]) + " |")
    speeds = {row.variant: row.tokens_per_second for row in found if row.tokens_per_second}
    ours = speeds.get("ours") or speeds.get("ours uncapped")
    if ours and "notebook" in speeds:
        times = ours / speeds["notebook"]
        lines.append(f"\nours: {times:.1f} times the notebook's settings in tokens/s")
    return "\n".join(lines)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key == "mfu":
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return str(value)


def _arguments() -> argparse.Namespace:
    parser = Options(
        "scripts.bench_gpu", __doc__.splitlines()[0], "--output results/bench_gpu.json",
        "--variants check,ours --steps 6 --rows 200 --gpus 1 --memory-cap 24 --keep /scratch",
        "--width 64 --set sequence_len=512 --plain-seconds 5 --variant-seconds 600 "
        "--limit-seconds 3600",
    )  # fmt: skip
    add = parser.add_argument
    default = ",".join(name for name in VARIANTS if name not in FALLBACKS)
    add("--variants", default=default, help="with commas (default: all)")
    add("--steps", type=int, default=12, help="optimiser steps a training")
    add("--rows", type=int, default=600, help="training rows to make, a GPU")
    add("--gpus", type=int, help="how many (default: all that are here)")
    add("--memory-cap", type=float, metavar="GB", help="as on a card of this size; 0: the whole "
        "card (default: the card that each recipe is for)")  # fmt: skip
    add("--width", type=int, help="a model of this width, for a try on a CPU (default: the real "
        "one)")  # fmt: skip
    add("--set", action="append", default=[], metavar="KEY=VALUE",
        help="of all trainings, also several times (default: none)")  # fmt: skip
    add("--keep", type=Path, metavar="FOLDER", help="model and rows (15 GB) stay there for more "
        "(default: they are removed)")  # fmt: skip
    add("--plain-seconds", type=float, default=20, help="of generation one dialogue at a time")
    add("--variant-seconds", type=float, default=1800, help="a process of a variant at most")
    add("--limit-seconds", type=float, default=86400, help="all at most")
    add("--output", type=Path, default=Path("results/bench_gpu.json"), help="the figures")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
