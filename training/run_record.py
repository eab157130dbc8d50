"""What an output folder was trained with, and whether a training may write there.

`run.json` is written before the first step: the recipe's settings and the hashes of the data;
`recipe.yml` beside it is the recipe as it was trained, the command line's values included.
`trained_with.json` follows once the final adapter is saved.
"""

import fcntl
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from data_prep.errors import UserError, whole_file
from data_prep.machine import usage
from data_prep.sources import sha256_of
from eval.adapter import (
    ADAPTER,
    CHECKPOINT,
    RECIPE,
    RUN,
    TRAIN_AGAIN,
    TRAINED_WITH,
    differences,
    listed,
    settings_in,
)
from training.checkpoints import checkpoints, free_name, what_is_broken

OF_ONE_START = ("axolotl_config_path", "auto_resume_from_checkpoints", "resume_from_checkpoint")


def changes(folder: Path, settings: dict[str, Any]) -> list[str]:
    """What differs between the run in `folder` and `settings`, a phrase each; [] for a new folder.

    Raises UserError where a run is there of which nothing is known.
    """
    if not holds_a_run(folder):
        return []
    before = settings_in(folder)
    if before is None:
        raise UserError(
            f"{folder}: holds a training, but no {RUN} that says of what; set another output_dir, "
            f"or train again with `{TRAIN_AGAIN}` (what is there is set aside)"
        )
    return list(differences(before, settings).values())


def check_resume(checkpoint: Path, settings: dict[str, Any], count: int) -> None:
    """Raise UserError where training cannot go on from `checkpoint` as `settings` say.

    The optimizer and the schedule come from the checkpoint: training would go on at the old rate
    while `run.json` names the new one. `count`: processes that train together.
    """
    if not CHECKPOINT.fullmatch(checkpoint.resolve().name):
        raise UserError(f"{checkpoint}: is no checkpoint-<step> folder; name one that is")
    if why := what_is_broken(checkpoint, count):
        raise UserError(f"{checkpoint}: {why}; choose a whole checkpoint")
    before = settings_in(checkpoint)
    if before is None:
        changed = [f"there is no {RUN} beside it, so that its settings are not known"]
    else:
        changed = list(differences(before, settings).values())
    if changed:
        raise UserError(
            f"resume_from_checkpoint {checkpoint}: was trained otherwise: {listed(changed)}; "
            "take the settings that it was trained with, or start from its weights with a new "
            f"optimizer: `--lora_model_dir {checkpoint} --output_dir FOLDER` instead"
        )


def refusal(folder: Path, changed: list[str]) -> str:
    """One line that says why a training may not go on in `folder`, and how to."""
    return (
        f"{folder}: was trained otherwise: {listed(changed)}; set another output_dir, "
        f"or train again with `{TRAIN_AGAIN}` (what is there is set aside)"
    )


def processes() -> int:
    """How many processes train together, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def holds_a_run(folder: Path) -> bool:
    """Whether a training has left anything in `folder` that another would mix with."""
    return bool(checkpoints(folder)) or any(
        (folder / name).exists() for name in (ADAPTER, RUN, TRAINED_WITH)
    )


def start_anew(folder: Path) -> Path:
    """Move an earlier run out of `folder`, into a new folder beside it; nothing is deleted."""
    folder = folder.resolve()  # a link may lead to another disk
    aside = free_name(folder.with_name(f"{folder.name}-set-aside"))
    aside.mkdir()
    for entry in folder.iterdir():
        if entry.name not in ("debug.log", ".lock"):  # both are open
            entry.rename(aside / entry.name)
    return aside


def write_run(folder: Path, settings: dict[str, Any], precision: dict[str, Any]) -> None:
    """Record what a training starts with."""
    with whole_file(folder / RUN) as file:
        json.dump({"settings": settings, "precision": precision}, file, indent=1, sort_keys=True)


def recipe_text(path: Path, asked: dict[str, Any]) -> str:
    """The recipe at `path` as it is trained; `asked`: with the command line's values.

    The file itself where the command line changed nothing, so that its comments stay. Without what
    said how this one start goes: the kept recipe is to be trained and evaluated again.
    """
    text = path.read_text("utf-8")
    asked = {key: value for key, value in asked.items() if key not in OF_ONE_START}
    if yaml.safe_load(text) != asked:
        head = f"# {path.name} as it was trained, with what the command line set.\n"
        text = head + yaml.safe_dump(asked, sort_keys=False, allow_unicode=True)
    return text


def write_recipe(folder: Path, text: str) -> None:
    """Keep the recipe beside `run.json`."""
    with whole_file(folder / RECIPE) as file:
        file.write(text)


def precision_of(folder: Path) -> dict[str, Any]:
    """Which precision the run in `folder` took for `bf16: auto`; {} where there is none."""
    try:
        return dict(json.loads((folder / RUN).read_text("utf-8"))["precision"])
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def write_trained_with(folder: Path, instruction: str, steps: int) -> None:
    """Leave beside the final adapter which prompt it learnt, its hash, and what it took."""
    made = {"instruction": instruction, "steps": steps, "adapter": sha256_of(folder / ADAPTER)}
    made |= usage()
    with whole_file(folder / TRAINED_WITH) as file:
        json.dump(made, file)


def lock(folder: Path) -> IO[str]:
    """Hold the folder until the process ends; raises UserError where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UserError(
            f"{folder}: another training or a merge is at work there; wait for it, or set another "
            "output_dir"
        ) from error
    return file


def output_dir_problems(path: Path, config: Mapping[str, Any]) -> list[str]:
    """Why the recipe at `path` must not train into its `output_dir`; [] where it may.

    A training writes dozens of files there, and `TRAIN_AGAIN` moves everything in it aside.
    """
    folder = Path(str(config["output_dir"]))
    place, here = folder.resolve(), Path.cwd().resolve()
    why, above = "", next(p for p in (place, *place.parents) if p.exists())
    if folder.exists() and not folder.is_dir():
        why = "is a file"
    elif not above.is_dir() or not os.access(above, os.W_OK):
        why = f"cannot be made: {above} is not a folder that can be written"
    elif CHECKPOINT.fullmatch(place.name):
        why = "is named like a checkpoint"
    elif place == here or place in here.parents or place == Path.home():
        why = "is the folder in which this command runs, one above it, or your home"
    else:
        others = {"base model's": config.get("base_model")}
        others["adapter's"] = config.get("lora_model_dir")
        block = config.get("summarization")
        others["source's"] = block.get("source") if isinstance(block, Mapping) else None
        others["prepared data's"] = _data_folder(config)
        for name, other in others.items():
            used = Path(str(other)).resolve() if other and Path(str(other)).is_dir() else None
            if used and (place == used or used in place.parents):
                why = f"is the {name} folder {other}, or in it"
            elif used and place in used.parents:
                why = f"holds the {name} folder {other}"
        if not why and (foreign := _foreign(folder)):
            why = f"holds files that are not a training's ({', '.join(foreign[:3])})"
    return [f"{path}: output_dir {folder} {why}; name a folder of its own"] if why else []


def _data_folder(config: Mapping[str, Any]) -> Path | None:
    try:
        return Path(config["datasets"][0]["path"]).parent
    except (KeyError, IndexError, TypeError):
        return None


def _foreign(folder: Path) -> list[str]:
    """Names of what no training of ours left in a folder; `axolotl train --sweep` makes folders."""
    if not folder.is_dir() or holds_a_run(folder):
        return []
    own = re.compile(r"debug\.log|\.lock|sweep\d{4}")
    return sorted(e.name for e in folder.iterdir() if not own.fullmatch(e.name))
