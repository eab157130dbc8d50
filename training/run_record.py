"""The record of a training run in its output folder, and which checkpoints are complete.

`run.json` is written before the first step, with the recipe's settings and the data's hashes;
`recipe.yml` beside it is the recipe as it was trained, with the command line's overrides.
`trained_with.json` is written once the final adapter is saved.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from data_prep.console import say
from data_prep.errors import UserError, atomic_file
from data_prep.hub import is_complete_file
from data_prep.machine import usage
from data_prep.prompt import template_hash
from data_prep.recipe import Recipe
from data_prep.sources import sha256_of
from eval.adapter import (
    ADAPTER,
    CHECKPOINT,
    RECIPE,
    RUN,
    TRAIN_AGAIN,
    TRAINED_WITH,
    RunRecord,
    TrainedWith,
    differences,
    listed,
    read_run_record,
)
from eval.trackers import TRACKED, TrainingRuns

START_KEYS = ("axolotl_config_path", "auto_resume_from_checkpoints", "resume_from_checkpoint")
ADVICE = (
    f"set another output_dir, or train again with `{TRAIN_AGAIN}` (the earlier run is set aside)"
)
# Files that training opens at its start, folders of `axolotl train --sweep`, and TensorBoard's
# events, which an evaluation of only the base model writes before any training.
OWN_FILES = re.compile(r"debug\.log|\.lock|sweep\d{4}|runs|tokenizer")


def processes() -> int:
    """Return how many processes train together, from the launcher's environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_same_run(folder: Path, settings: dict[str, Any]) -> None:
    """Raise UserError if `folder` holds a run with other settings, or with unknown ones."""
    if not contains_run(folder):
        return
    record = read_run_record(folder)
    if record is None:
        raise UserError(f"{folder}: holds a run, but no {RUN} with its settings; {ADVICE}")
    if changed := list(differences(record.settings, settings).values()):
        raise UserError(f"{folder}: was trained differently: {listed(changed)}; {ADVICE}")


def check_resume(checkpoint: Path, settings: dict[str, Any], count: int) -> None:
    """Raise UserError if training cannot resume from `checkpoint` with these `settings`.

    The optimiser and the schedule come from the checkpoint: training would continue at the old
    learning rate while `run.json` records the new one. `count`: processes that train together.
    """
    if not CHECKPOINT.fullmatch(checkpoint.resolve().name):
        raise UserError(f"{checkpoint}: is not a checkpoint-<step> folder; give one that is")
    if why := checkpoint_problem(checkpoint, count):
        raise UserError(f"{checkpoint}: {why}; choose a complete checkpoint")
    record = read_run_record(checkpoint)
    if record is None:
        changed = [f"there is no {RUN} beside it, so its settings are unknown"]
    else:
        changed = list(differences(record.settings, settings).values())
    if changed:
        raise UserError(
            f"resume_from_checkpoint {checkpoint}: was trained differently: {listed(changed)}; "
            "use the settings that it was trained with, or start from its weights with a new "
            f"optimiser: `--lora_model_dir {checkpoint} --output_dir FOLDER` instead"
        )


def contains_run(folder: Path) -> bool:
    """Return whether `folder` holds files that a new run would mix with its own."""
    return bool(checkpoints(folder)) or any(
        (folder / name).exists() for name in (ADAPTER, RUN, TRAINED_WITH)
    )


def set_aside(folder: Path) -> Path:
    """Move an earlier run from `folder` into a new folder beside it, which is returned."""
    folder = folder.resolve()  # a link may point to another disk
    aside = free_name(folder.with_name(f"{folder.name}-set-aside"))
    aside.mkdir()
    for entry in folder.iterdir():
        if entry.name not in ("debug.log", ".lock"):  # both are open
            entry.rename(aside / entry.name)
    return aside


def write_run(
    folder: Path, settings: dict[str, Any], precision: dict[str, Any], recipe: str
) -> None:
    """Record the settings at the start of training; `recipe`: the text to keep."""
    with atomic_file(folder / RUN) as file:
        record = RunRecord(settings=settings, precision=precision).sealed()
        file.write(record.model_dump_json(indent=1))
    with atomic_file(folder / RECIPE) as file:
        file.write(recipe)


def precision_of(folder: Path) -> dict[str, Any]:
    """Return the precision that the run in `folder` chose for `bf16: auto`; {} if there is none."""
    with suppress(UserError):  # a damaged record is refused later
        if record := read_run_record(folder):
            return record.precision
    return {}


def recipe_text(path: Path, asked: dict[str, Any]) -> str:
    """Return the text of the recipe as it is trained; `asked`: with the command line's overrides.

    This is the file itself, with its comments, if the command line changed nothing. Keys that
    only control this start are left out, so that the kept recipe can be trained again.
    """
    text = path.read_text("utf-8")
    asked = {key: value for key, value in asked.items() if key not in START_KEYS}
    if yaml.safe_load(text) != asked:
        head = f"# {path.name} as it was trained, with what the command line set.\n"
        text = head + yaml.safe_dump(asked, sort_keys=False, allow_unicode=True)
    return text


def write_trained_with(folder: Path, recipe: Recipe, steps: int) -> None:
    """Record beside the final adapter its prompt, its hash, and the time and memory it took."""
    record = TrainedWith(
        instruction=recipe.summarization.instruction,
        template=template_hash(recipe),
        steps=steps,
        adapter=sha256_of(folder / ADAPTER),
        log=sha256_of(log) if (log := folder / "trainer_state.json").is_file() else None,
        **usage()._asdict(),
    )
    with atomic_file(folder / TRAINED_WITH) as file:
        file.write(record.sealed().model_dump_json())


def write_training_runs(folder: Path) -> None:
    """Record the ids of the W&B and MLflow runs that this process logged to, if any."""
    import wandb  # Axolotl has imported it

    ids = TrainingRuns(wandb=wandb.run.id if wandb.run else None)
    # transformers has ended MLflow's run by now, and imports the package only if it is used
    if mlflow := sys.modules.get("mlflow"):
        with suppress(Exception):  # it asks the server, and a tracker must not end training
            run = mlflow.last_active_run()
            ids.mlflow = run and run.info.run_id
    if ids.wandb or ids.mlflow:
        with atomic_file(folder / TRACKED) as file:
            file.write(ids.model_dump_json())


def lock(folder: Path) -> FileLock:
    """Lock the folder until the process ends; raises UserError if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(folder / ".lock", blocking=False)
    try:
        file_lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{folder}: another training or merge is running there; wait for it, or set another "
            "output_dir"
        ) from error
    return file_lock


def output_dir_problems(path: Path, config: Mapping[str, Any]) -> list[str]:
    """Return why the recipe at `path` must not train into its `output_dir`; [] if it may.

    Training writes dozens of files there, and `TRAIN_AGAIN` sets everything in it aside.
    """
    folder, cwd, home = Path(str(config["output_dir"])), Path.cwd().resolve(), Path.home()
    target = folder.resolve()
    existing = next(p for p in (target, *target.parents) if p.exists())
    why = _overlap(target, config)
    if folder.exists() and not folder.is_dir():
        why = "is a file"
    elif not existing.is_dir() or not os.access(existing, os.W_OK):
        why = f"cannot be created: {existing} is not a writable folder"
    elif CHECKPOINT.fullmatch(target.name):
        why = "is named like a checkpoint"
    elif target in (cwd, *cwd.parents, home):
        why = "is the folder in which this command runs, one above it, or your home"
    elif not why and folder.is_dir() and not contains_run(folder):
        names = sorted(e.name for e in folder.iterdir() if not OWN_FILES.fullmatch(e.name))
        why = f"holds files that are not from training ({', '.join(names[:3])})" if names else ""
    return [f"{path}: output_dir {folder} {why}; choose a separate folder"] if why else []


def _overlap(target: Path, config: Mapping[str, Any]) -> str:
    """Return how `target` overlaps a folder that training reads: the same, in it or around it."""
    block, data_dir = config.get("summarization"), None
    with suppress(KeyError, IndexError, TypeError):  # another check reports what is wrong there
        data_dir = Path(config["datasets"][0]["path"]).parent
    read_paths = {
        "base model's": config.get("base_model"),
        "adapter's": config.get("lora_model_dir"),
        "source's": block.get("source") if isinstance(block, Mapping) else None,
        "prepared data's": data_dir,
    }
    for name, path in read_paths.items():
        folder = Path(str(path)).resolve()
        if path and folder.is_dir() and target in (folder, *folder.parents):
            return f"is or holds the {name} folder {path}"
        if path and folder.is_dir() and folder in target.parents:
            return f"is in the {name} folder {path}"
    return ""


# ---- half-written files of a killed process ----
# Axolotl takes the checkpoint with the highest number without checking it, then crashes on one that
# is incomplete, or continues from zero momentum.

STATE_FILE = "trainer_state.json"  # the trainer writes it last
# Keys that change the tokenised rows. The hash that Axolotl itself adds to the cache's path may
# not cover them (0.19 hashes names of files, not their content).
ROW_KEYS = (
    "datasets", "test_datasets", "chat_template", "chat_template_jinja", "chat_template_kwargs",
    "special_tokens",
    "tokens", "added_tokens_overrides", "base_model", "revision_of_model", "tokenizer_config",
    "tokenizer_type", "sequence_len", "eval_sequence_len", "excess_length_strategy",
    "sample_packing", "eval_sample_packing", "train_on_inputs", "group_by_length", "eot_tokens",
)  # fmt: skip
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                   "special_tokens_map.json", "chat_template.jinja")  # fmt: skip


def checkpoints(folder: Path) -> list[Path]:
    """Return every `checkpoint-<step>` in `folder`, lowest step first."""
    folders = (path for path in folder.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name))
    return sorted(folders, key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def newest_complete_checkpoint(folder: Path, processes: int = 1) -> Path | None:
    """Return the newest checkpoint in `folder` that training can resume from exactly, or None."""
    newest_first = reversed(checkpoints(folder))
    return next((path for path in newest_first if not checkpoint_problem(path, processes)), None)


def set_aside_others(folder: Path, kept: Path | None, processes: int = 1) -> list[str]:
    """Rename checkpoints that a new save must not mix with: broken ones, and any after `kept`.

    Returns one line for each, with the old name, the new name and the reason. Nothing is deleted.
    """
    lines = []
    for checkpoint in checkpoints(folder):
        newer = kept is None or _step_of(checkpoint) > _step_of(kept)
        why = checkpoint_problem(checkpoint, processes) or (
            "newer than the one used" if newer else ""
        )
        if why:
            renamed = checkpoint.rename(free_name(folder / f"set-aside-{checkpoint.name}"))
            lines.append(f"{checkpoint}: {why}; set aside as {renamed.name}")
    return lines


def checkpoint_problem(checkpoint: Path, processes: int = 1) -> str:
    """Return why training with `processes` processes cannot resume exactly; '' if it can."""
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text("utf-8"))
        step, best = int(state["global_step"]), state.get("best_model_checkpoint")
    except FileNotFoundError:
        return f"its save was cut short (no {STATE_FILE})"
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"{STATE_FILE} is damaged ({error})"
    if step != _step_of(checkpoint):
        return f"{STATE_FILE} is from step {step}"
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
        if not is_complete_file(path, read_all=True):
            return f"{path.relative_to(checkpoint)} is damaged or cut short"
    ranks = [f"_{rank}" for rank in range(processes)] if processes > 1 else [""]
    needed = [  # or what FSDP and DeepSpeed (`global_step*`) write instead
        ("*model*.safetensors", "pytorch_model_fsdp*", "*model*.bin", "global_step*"),
        ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
        ("scheduler.pt", "global_step*"),
        *((f"rng_state{rank}.pth",) for rank in ranks),
    ]
    for patterns in needed:
        if not any(path for pattern in patterns for path in checkpoint.glob(pattern)):
            return f"has no {patterns[0].replace('*', '')}"
    if best and Path(best).name != checkpoint.name:
        sibling = checkpoint.parent / Path(best).name  # the folder may have been moved
        if why := "is gone" if not sibling.is_dir() else checkpoint_problem(sibling, processes):
            return f"the best checkpoint {sibling.name} {why}"
    return ""


def free_name(path: Path) -> Path:
    """Return `path`, or if that exists, `path` with the first free number appended."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate


def cache_folder(recipe: Recipe, files: dict[str, str]) -> Path:
    """Return the folder of the tokenised rows: in `dataset_prepared_path`, or else in the data.

    `files`: hashes of the prepared files by name, from the manifest.
    """
    config = recipe.config
    tokenizer_dir = Path(str(config.get("tokenizer_config") or config["base_model"]))
    jinja = Path(str(config.get("chat_template_jinja") or "/"))  # a file, or the template itself
    shaping = {
        "rows": [files["train.jsonl"], files["validation.jsonl"]],
        "recipe": {key: config.get(key) for key in ROW_KEYS},
        "tokenizer": [sha256_of(tokenizer_dir / n) if (tokenizer_dir / n).is_file() else ""
                      for n in TOKENIZER_FILES],
        "template": jinja.read_text("utf-8") if jinja.is_file() else "",
        "versions": [version(name) for name in ("axolotl", "transformers", "tokenizers")],
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(shaping, sort_keys=True, default=str).encode()).hexdigest()
    return Path(config.get("dataset_prepared_path") or recipe.data_dir / "tokenized") / key[:16]


def set_aside_cut_caches(folder: Path) -> None:
    """Rename caches that an interrupted run left incomplete: the JSON files are written last."""
    for cache in folder.glob("*/"):
        complete = all((cache / name).is_file() for name in ("state.json", "dataset_info.json"))
        if not complete and not cache.name.startswith("set-aside-"):
            renamed = cache.rename(free_name(folder / f"set-aside-{cache.name}"))
            say(f"{cache}: cut short; set aside as {renamed.name}", error=True)
