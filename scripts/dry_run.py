"""Train any recipe for a few steps on this computer's CPU, the very file, with a tiny random model.

    python -m scripts.dry_run recipes/mistral_samsum.yml
    python -m scripts.dry_run recipes/mistral_samsum.yml --processes 2 --fsdp_version 2 \
        --fsdp_config "$(cat recipes/distributed/fsdp2.json)"

Only Axolotl's own command-line overrides change the recipe: `overrides` lists them. They are the
model, the size of the run, the data (our own sample), and what a CPU cannot do, which
training/machine_checks.py knows. Further flags go to the launch line as they are. Data and
output are in a temporary folder, which is removed.

    python -m scripts.dry_run recipes/mistral_samsum.yml --full-size [--keep FOLDER]

makes the model at its real size and runs every step with it, from preparing to merging
(scripts/full_size.py); docs/full_size.md has what that took.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data_prep.errors import UserError, run_cli
from data_prep.prepare import prepare
from data_prep.recipe import Recipe, load_recipe
from scripts.full_size import full_size
from scripts.random_model import save
from training.machine_checks import cpu_overrides

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "data_prep/sample"
WIDTH = 64
SIZE = {"max_steps": 4, "sequence_len": 1024, "logging_steps": 1}


def main() -> None:
    """Prepare, train, and say what the last log line was; or the whole way at full size."""
    args, flags = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        if args.full_size:
            folder = (args.keep or Path(temporary)).resolve()
            recipe = load_recipe(args.recipe)
            full_size(recipe, folder, args.source, args.width, _environment(1))
            return
        done = dry_run(args.recipe, Path(temporary), args.processes, flags)
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-6000:], sep="\n", file=sys.stderr)
            raise UserError(f"{args.recipe}: the dry run failed; its last words are above")
        print(*(line for line in done.stdout.splitlines() if "'loss': " in line), sep="\n")
        adapter = next(Path(temporary).glob("outputs/*/adapter_model.safetensors"))
        print(f"{args.recipe}: trained; an adapter of {adapter.stat().st_size} bytes")


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    """The command line, and the flags that are passed on to the launch line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.dry_run", description=__doc__.splitlines()[0]
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    whole = parser.add_argument_group("the whole way at the model's real size")
    whole.add_argument("--full-size", action="store_true", help="prepare, train, evaluate, merge")
    whole.add_argument("--keep", type=Path, metavar="FOLDER", help="keep model and results there")
    whole.add_argument("--source", type=Path, default=SAMPLE, help="a corpus (default our sample)")
    whole.add_argument("--width", type=int, help="of a small model instead, with two layers")
    args, flags = parser.parse_known_args()
    if args.full_size and (flags or args.processes > 1):
        raise UserError("--full-size is one process, and takes no flags of the launch line")
    if not args.full_size and (args.keep or args.width or args.source != SAMPLE):
        raise UserError("--keep, --source and --width need --full-size")
    return args, flags


def dry_run(
    path: Path, folder: Path, processes: int = 1, flags: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Prepare the sample and train on it in `folder`; the finished launch line.

    Raises UserError for a recipe that is wrong, or whose model is not known to random_model.py.
    """
    recipe = load_recipe(path)
    model = folder / "model"
    save(recipe.config["base_model"], model, WIDTH)
    before = Path.cwd()
    os.chdir(folder)  # so that the recipe's relative paths are in there
    try:
        prepare(_on_the_sample(recipe, model))
        command = [*_launcher(processes), str(before / path), *overrides(recipe, model)]
        command += flags or []
        return subprocess.run(command, env=_environment(processes), capture_output=True, text=True)
    finally:
        os.chdir(before)


def overrides(recipe: Recipe, model: Path) -> Iterator[str]:
    """Every flag of the launch line: model, data, size, and what a CPU cannot do."""
    yield from ("--base_model", str(model))
    yield from ("--summarization__source", str(SAMPLE), "--summarization__train_rows", "all")
    settings = {**SIZE, **cpu_overrides(recipe.config)}
    if recipe.config.get("bf16"):
        settings["bf16"] = False  # slow on many CPUs
    for key, value in settings.items():
        yield from (f"--{key}", str(value))


def _on_the_sample(recipe: Recipe, model: Path) -> Recipe:
    block = recipe.summarization.model_copy(update={"source": str(SAMPLE), "train_rows": "all"})
    config = {**recipe.config, "base_model": str(model), **SIZE}
    return replace(recipe, config=config, summarization=block)


def _launcher(processes: int) -> list[str]:
    bin_dir = Path(sys.executable).parent
    if processes == 1:
        return [str(bin_dir / "accelerate"), "launch", "-m", "axolotl.cli.train"]
    return [str(bin_dir / "torchrun"), "--nproc-per-node", str(processes), "-m",
            "axolotl.cli.train"]  # fmt: skip


def _environment(processes: int) -> dict[str, str]:
    more = {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    more["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    if processes > 1:
        more["ACCELERATE_USE_CPU"] = "true"
    return {**os.environ, **more}


if __name__ == "__main__":
    run_cli(main)
