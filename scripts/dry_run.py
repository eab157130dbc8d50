"""Train any recipe, unchanged, for a few steps on this computer's CPU with a tiny random model.

    python -m scripts.dry_run recipes/mistral_samsum.yml
    python -m scripts.dry_run recipes/mistral_samsum.yml --processes 2 --fsdp_version 2 \
        --fsdp_config "$(cat recipes/distributed/fsdp2.json)"

Only Axolotl's own command-line overrides change the recipe; `overrides` lists them. They are the
model, the size of the run, the data (our own sample), and keys that do not work on a CPU (see
training/machine_checks.py). Other flags are added to the launch line. Data and output go to a
temporary folder, which is removed.

    python -m scripts.dry_run recipes/mistral_samsum.yml --full-size [--keep FOLDER]

creates the model at its real size with random weights, and runs a recipe derived from the given one
through the documented commands, from preparing to merging. docs/full_size.md has the time and
memory that this took.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

import psutil
import yaml

from data_prep.errors import VERBOSE, UserError, run_cli, writing_to
from data_prep.hub import check_weights
from data_prep.options import Options
from data_prep.prepare import prepare
from data_prep.recipe import Recipe, load_recipe
from scripts.random_model import describe, keys_for, on_source, save
from training.machine_checks import count_weights, cpu_overrides

ROOT, BIN = Path(__file__).resolve().parent.parent, Path(sys.executable).parent
SAMPLE = ROOT / "data_prep/sample"
WIDTH = 64
SMALL_RUN = {"max_steps": 2, "sequence_len": 512, "logging_steps": 1}
FULL_SIZE: dict[str, Any] = {
    "bf16": True, "sequence_len": 512, "micro_batch_size": 1, "gradient_accumulation_steps": 1,
    "max_steps": 2, "logging_steps": 1,
    "eval_strategy": "no",  # ten packs took a CPU minutes, in NF4 far longer; eval.run follows
    "dataloader_num_workers": 0,  # otherwise Axolotl forks one, which keeps 1.4 GB of old pages
}  # fmt: skip
DECODING = {"max_new_tokens": 12, "dtype": "bfloat16"}
BYTES_A_PARAMETER = 2.7  # the highest measured: 19.3 GB at 7.24e9 (docs/full_size.md)
PROGRAM_BYTES = 1.5e9  # bytes of Python, PyTorch, Axolotl and the launcher


def main() -> None:
    """Prepare, train and print the losses; or run all steps at full size."""
    parser = Options(
        "scripts.dry_run", __doc__.splitlines()[0],
        "recipes/mistral_samsum.yml --processes 2",
        "recipes/mistral_samsum.yml --max_steps 4",
        "recipes/mistral_samsum.yml --full-size --width 64 --keep outputs/dry_run",
        more="Other flags go to Axolotl.",
    )  # fmt: skip
    parser.add_argument("recipe", type=Path, help="recipe file")
    parser.add_argument("--processes", type=int, default=1, help="how many train together")
    add = parser.add_argument_group("all steps at the model's real size").add_argument
    add("--full-size", action="store_true", help="prepare, train, evaluate, merge")
    add("--keep", type=Path, metavar="FOLDER", help="keep model and results there (default: "
        "remove them)")  # fmt: skip
    add("--width", type=int, help="use a small model of this width with two layers (default: the "
        "real model)")  # fmt: skip
    args, flags = parser.parse_known_args()
    if args.full_size and (flags or args.processes > 1):
        raise UserError("--full-size runs one process and takes no other flags")
    if not args.full_size and (args.keep or args.width):
        raise UserError("--keep and --width need --full-size")
    with tempfile.TemporaryDirectory() as temporary:
        if args.full_size:
            folder = (args.keep or Path(temporary)).resolve()
            return full_size(load_recipe(args.recipe), folder, args.width)
        process = dry_run(args.recipe, Path(temporary), args.processes, flags)
        if process.returncode:
            print(process.stdout[-2000:], process.stderr[-6000:], sep="\n", file=sys.stderr)
            raise UserError(f"{args.recipe}: the dry run failed; the end of its output is above")
        print(*(line for line in process.stdout.splitlines() if "'loss': " in line), sep="\n")
        adapter = next(Path(temporary).glob("outputs/*/adapter_model.safetensors"))
        print(f"{args.recipe}: trained an adapter of {adapter.stat().st_size} bytes")


def dry_run(
    path: Path, folder: Path, processes: int = 1, flags: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Prepare the sample, train on it in `folder`, and return the finished launch process.

    Raises UserError if the recipe is wrong or random_model.py does not know its model.
    """
    recipe, model = load_recipe(path), folder / "model"
    save(recipe.config["base_model"], model, WIDTH)
    tiny_recipe = on_source(recipe, model, SAMPLE)
    with contextlib.chdir(folder):  # the recipe's relative paths start here
        prepare(replace(tiny_recipe, config={**tiny_recipe.config, **SMALL_RUN}))
    command = [*training_command(recipe, overrides(recipe, model), processes), *flags]
    env = child_environment() | ({"ACCELERATE_USE_CPU": "true"} if processes > 1 else {})
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def overrides(recipe: Recipe, model: Path) -> dict[str, Any]:
    """Return the keys that the launch line overrides: model, data, size, GPU-only keys."""
    keys = keys_for(recipe.summarization, SAMPLE)
    data = {f"summarization__{key}": value for key, value in keys.items()}
    slow = {"bf16": False} if recipe.config.get("bf16") else {}  # slow on many CPUs
    return {"base_model": model, **data, **SMALL_RUN, **cpu_overrides(recipe.config), **slow}


def training_command(recipe: Recipe, overrides: dict[str, Any], processes: int) -> list[str]:
    """Return the recipe's launch line, with a flag for each override."""
    launcher = [str(BIN / "accelerate"), "launch"]
    if processes > 1:
        launcher = [str(BIN / "torchrun"), "--nproc-per-node", str(processes)]
    flags = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
    return [*launcher, "-m", "axolotl.cli.train", str(recipe.path.absolute()), *flags]


def child_environment() -> dict[str, str]:
    """Return an environment that finds our modules, stays off the Hub and shows all output."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, VERBOSE: "1"}
    return {**os.environ, **env}


# ---- all steps at full size ----


def full_size(recipe: Recipe, folder: Path, width: int | None) -> None:
    """Create model and data in `folder`, train, evaluate and merge; print one line per step.

    Raises UserError if memory or disk are too small (before anything large is written), or if a
    step fails.
    """
    original = recipe.config["summarization"]
    block = {**original, **keys_for(recipe.summarization, SAMPLE)}
    block.pop("revision", None)  # it belongs to a dataset on the Hub
    model, path = folder / "model", folder / f"{recipe.name}.yml"
    config = {**recipe.config, **cpu_overrides(recipe.config), **FULL_SIZE,
              "summarization": block, "base_model": str(model)}  # fmt: skip
    if (folder / "outputs" / recipe.name).exists():
        raise UserError(
            f"{folder}: holds an earlier run of {recipe.name}; remove its outputs/, or "
            "choose another --keep"
        )
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    derived = load_recipe(path)
    describe(recipe.config["base_model"], model, width)
    check_room(derived, folder)
    steps = {
        "model": ["-m", "scripts.random_model", str(recipe.path.resolve()), str(model)],
        "prepare": ["-m", "data_prep", str(path)],
        "preflight": ["-m", "training.preflight", str(path), "--no-sample"],
        "train": ["-m", "accelerate.commands.launch", "-m", "axolotl.cli.train", str(path)],
        "evaluate": ["-m", "eval.run", str(path), "--limit", "3"],
        "merge": ["-m", "scripts.merge", str(path)],
    }
    if width:
        steps["model"] += ["--width", str(width)]
    problems, line = check_weights(derived)
    if not problems and "all complete" in line:  # from an earlier run
        steps.pop("model")
    print(f"{'step':<10}{'seconds':>8}{'GB of its largest process':>27}", flush=True)
    for name, arguments in steps.items():
        if name == "evaluate":  # preflight would refuse so few tokens
            block["decoding"] = {**original.get("decoding", {}), **DECODING}
            path.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
        log, start = folder / f"{recipe.name}-{name}.log", time.monotonic()
        with log.open("w", encoding="utf-8") as out:
            command = [sys.executable, *arguments]
            process = subprocess.Popen(
                command, cwd=folder, env=child_environment(), stdout=out, stderr=subprocess.STDOUT
            )
        try:
            _, status, usage = os.wait4(process.pid, 0)  # includes its children
        except BaseException:
            process.kill()
            raise
        seconds, peak = time.monotonic() - start, usage.ru_maxrss * 1024 / 1e9
        print(f"{name:<10}{seconds:>8.0f}{peak:>27.1f}", flush=True)
        if code := os.waitstatus_to_exitcode(status):
            print(log.read_text("utf-8", "replace")[-3000:], file=sys.stderr)
            raise UserError(f"{log}: {name} ended with {code}; the end of its log is above")


def check_room(recipe: Recipe, folder: Path) -> None:
    """Raise UserError if the run needs more memory or disk than is available.

    `recipe`: the derived one; its model's config is already in `folder`.
    """
    weights = count_weights(recipe)
    memory, limit = psutil.virtual_memory().available, Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text("utf-8").strip()).isdigit():  # containers
        memory = min(memory, int(text))
    saved = sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors"))
    # base and merged model in bf16; adapter and optimiser state of a checkpoint and the final ones
    disk = 4 * weights.parameters - saved + 16 * weights.adapter
    needs = (
        ("memory", BYTES_A_PARAMETER * weights.parameters + PROGRAM_BYTES, memory,
         "end other programs, or use a larger machine"),
        ("disk", disk, disk_usage(folder).free,
         "free some space, or choose a folder on another disk with --keep"),
    )  # fmt: skip
    shortages = [
        f"{needed / 1e9:.1f} GB of {what}, and {free / 1e9:.1f} GB are available ({fix})"
        for what, needed, free, fix in needs
        if free < needed
    ]
    if shortages:
        raise UserError(f"{recipe.name}: a run at full size needs {'; and '.join(shortages)}")


if __name__ == "__main__":
    run_cli(main)
