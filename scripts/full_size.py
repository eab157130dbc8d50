"""Every step of a recipe at its model's real size, on this computer's CPU, each measured.

Called by `python -m scripts.dry_run RECIPE --full-size`. A recipe derived from the given one is
in the run's folder, with the model (random weights), the data and what each step printed. The steps
are the documented commands, one process after the other, so that each one's memory is its own.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_AS, getrlimit
from shutil import disk_usage
from typing import Any, NamedTuple

import psutil
import yaml

from data_prep.errors import UserError, writing_to
from data_prep.hub import check_weights
from data_prep.recipe import Recipe, load_recipe
from scripts.random_model import describe
from training.machine_checks import cpu_overrides
from training.memory import count_weights

SIZE: dict[str, Any] = {  # everything else is the recipe's, or what a CPU can do
    "bf16": True, "sequence_len": 512, "micro_batch_size": 1, "gradient_accumulation_steps": 1,
    "max_steps": 2, "logging_steps": 1,
    "eval_strategy": "no",  # ten packs took a CPU minutes, in NF4 far more; eval.run follows anyway
    "dataloader_num_workers": 0,  # else Axolotl forks one, which keeps 1.4 GB of old pages
}  # fmt: skip
DECODING = {"max_new_tokens": 12, "dtype": "bfloat16"}
DIALOGUES = 3  # that are evaluated
BF16 = 2  # bytes
BYTES_A_PARAMETER = 2.7  # the most that was measured: 19.3 GB at 7.24e9 (docs/full_size.md)
PROGRAM = 1.5e9  # bytes of Python, PyTorch and Axolotl, and of the launcher beside them
LOOKING = 0.05  # share of the time: reading the sizes walks all pages, 14 GB in 40 ms
WORDS = 3000  # of a failed step's log, shown


class Measured(NamedTuple):
    """A finished step: exit code, seconds, and bytes of all its processes together at their peak.

    `own` leaves out the pages of files (weights that are mapped, not copied), which the kernel
    takes back where memory is short.
    """

    code: int
    seconds: float
    own: int
    resident: int


def full_size(
    recipe: Recipe, folder: Path, source: Path, width: int | None, environment: dict[str, str]
) -> None:
    """Make model and data in `folder`, train, evaluate, merge; print a line a step.

    `source`: a corpus, as `summarization.source` may name it; `width`: of a small model instead.
    Raises UserError where memory or disk do not suffice (before anything large is made), or where a
    step fails.
    """
    derived = derive(recipe, folder, source)
    if derived.output_dir.exists():
        raise UserError(
            f"{derived.output_dir}: holds an earlier run; remove it, or choose another --keep"
        )
    describe(recipe.config["base_model"], folder / "model", width)
    check_room(derived, folder)
    print(f"{'step':<10}{'seconds':>8}{'GB':>7}{'with mapped files':>19}", flush=True)
    for name, command in _steps(recipe, derived, folder / "model", width):
        log = folder / f"{recipe.name}-{name}.log"
        found = measure(command, folder, log, environment)
        print(
            f"{name:<10}{found.seconds:>8.0f}{found.own / 1e9:>7.1f}{found.resident / 1e9:>19.1f}",
            flush=True,
        )
        if found.code:
            print(log.read_text("utf-8", "replace")[-WORDS:], file=sys.stderr)
            raise UserError(f"{log}: {name} ended with {found.code}; the end of its log is above")


def derive(recipe: Recipe, folder: Path, source: Path) -> Recipe:
    """Write the recipe of the run into `folder`, and read it as the commands will.

    Its data and output folders are relative, and the commands run in `folder`; in the returned
    recipe they are absolute.
    """
    block = {
        **recipe.config["summarization"],
        "source": str(source.resolve()),
        "train_rows": "all",
        "decoding": {**recipe.config["summarization"].get("decoding", {}), **DECODING},
    }
    block.pop("revision", None)  # of a hub's data set
    config = {**recipe.config, **cpu_overrides(recipe.config), **SIZE, "summarization": block}
    config["base_model"] = str(folder / "model")
    path = folder / f"{recipe.name}.yml"
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    read = load_recipe(path)
    return replace(read, config={**read.config, "output_dir": str(folder / read.output_dir)})


def check_room(recipe: Recipe, folder: Path) -> None:
    """Raise UserError where the run needs more memory or disk than there is.

    `recipe`: the derived one, whose model is described in `folder` already.
    """
    weights = count_weights(recipe)
    needed, there = BYTES_A_PARAMETER * weights.parameters + PROGRAM, available_memory()
    lacks = []
    if there < needed:
        lacks.append(
            f"about {needed / 1e9:.1f} GB of memory, and {there / 1e9:.1f} GB are available (end "
            "other programs, or use a larger machine)"
        )
    made = sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors"))
    # the merged folder, and adapter and optimiser state of a checkpoint and of the end
    wanted = 2 * BF16 * weights.parameters - made + 16 * weights.adapter
    free = disk_usage(folder).free
    if free < wanted:
        lacks.append(
            f"{wanted / 1e9:.1f} GB of disk, and {free / 1e9:.1f} GB are free at {folder} (free "
            "the space, or choose a folder on another disk with --keep)"
        )
    if lacks:
        raise UserError(f"{recipe.name}: a run at full size needs {'; and '.join(lacks)}")


def available_memory() -> int:
    """Bytes that this process may still take: of the machine, its container, its own limit."""
    limits = [psutil.virtual_memory().available, getrlimit(RLIMIT_AS)[0]]
    with suppress(OSError, ValueError):  # no control group, or one without a limit
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text("utf-8")))
    return min(limit for limit in limits if limit != RLIM_INFINITY)


def _steps(
    recipe: Recipe, derived: Recipe, model: Path, width: int | None
) -> Iterator[tuple[str, list[str]]]:
    """Name and command of each step."""
    python, path = [sys.executable, "-m"], str(derived.path)
    launch = [str(Path(sys.executable).parent / "accelerate"), "launch", "-m"]
    if not _is_whole(derived):
        size = ["--width", str(width)] if width else []
        yield "model", [*python, "scripts.random_model", str(recipe.path.resolve()), str(model),
                        *size]  # fmt: skip
    yield "prepare", [*python, "data_prep", path]
    yield "preflight", [*python, "training.preflight", path, "--no-sample"]
    yield "train", [*launch, "axolotl.cli.train", path]
    yield "evaluate", [*python, "eval.run", path, "--limit", str(DIALOGUES)]
    yield "merge", [*python, "scripts.merge", path]


def _is_whole(recipe: Recipe) -> bool:
    """Whether the weights are all there from an earlier run."""
    problems, line = check_weights(recipe)
    return not problems and "all whole" in line


def measure(command: list[str], folder: Path, log: Path, environment: dict[str, str]) -> Measured:
    """Run a command in `folder`, its output in `log`, and watch its processes' memory."""
    start, peaks = time.monotonic(), [0, 0]
    with log.open("w", encoding="utf-8") as file:
        started = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT
        )

    def watch() -> None:
        while started.poll() is None:
            begin = time.monotonic()
            found = [_memory(process) for process in _family(started.pid)]
            for place, sizes in enumerate(zip(*found, strict=True)):
                peaks[place] = max(peaks[place], sum(sizes))
            time.sleep(max(0.1, (time.monotonic() - begin) / LOOKING))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        code = started.wait()
    finally:
        started.kill()  # nothing, unless this process was interrupted
        watcher.join()
    return Measured(code, time.monotonic() - start, *peaks)


def _family(pid: int) -> list[int]:
    try:
        first = psutil.Process(pid)
        return [pid, *(process.pid for process in first.children(recursive=True))]
    except psutil.Error:  # it has just ended
        return []


def _memory(pid: int) -> tuple[int, int]:
    """Bytes of a process, its own and all: what it shares with others counts by its share."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines()
    except OSError:  # it has just ended
        return 0, 0
    sizes = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return int(sizes["Pss_Anon"]) << 10, int(sizes["Pss"]) << 10
