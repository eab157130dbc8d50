"""What an output folder was trained with, and whether a training may go on in it.

`run.json` is written before the first step: the recipe's settings and the hashes of the data.
`trained_with.json` follows once the final adapter stands.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from data_prep.errors import UserError, whole_file
from data_prep.sources import sha256_of
from data_prep.training.checkpoints import checkpoints, free_name
from data_prep.training.usage import usage

RUN = "run.json"
TRAINED_WITH = "trained_with.json"
ADAPTER = "adapter_model.safetensors"
ANEW = "--auto_resume_from_checkpoints false"

# Where a run stands, how it is watched and how it is evaluated afterwards: none of it shapes the
# weights. Everything else does, or may.
WITHOUT_EFFECT = (
    ("axolotl_config_path", "output_dir", "dataset_prepared_path", "strict", "save_total_limit")
    + (
        "resume_from_checkpoint",
        "auto_resume_from_checkpoints",
        "logging_steps",
        "dataset_num_proc",
    )
    + ("use_tensorboard", "use_wandb", "use_mlflow", "use_comet", "use_trackio", "use_swanlab")
)
WATCHING = ("wandb_", "mlflow_", "comet_", "trackio_", "swanlab_", "hub_", "profiler_")


def settings_of(config: Mapping[str, Any], files: dict[str, str], processes: int) -> dict[str, Any]:
    """Flat `{"dotted.key": value}` of all in a recipe and its data that shapes the weights.

    `config`: the recipe with the command line's overrides, before Axolotl adds its defaults;
    `files`: hashes of the prepared files by name.
    """
    block = dict(config["summarization"])
    for key in ("license", "metrics", "publish"):
        block.pop(key, None)
    if not (block.get("training_rouge") or {}).get("dialogues"):
        block.pop("training_rouge", None)  # no summaries choose the checkpoint
        block.pop("decoding", None)
    kept = {k: v for k, v in config.items() if k not in WITHOUT_EFFECT and v is not None}
    kept = {k: v for k, v in kept.items() if not k.startswith(WATCHING)}
    found = dict(_flat({**kept, "summarization": block}))
    data = {f"data.{name}": files[name] for name in ("train.jsonl", "validation.jsonl")}
    return json.loads(json.dumps({**found, **data, "processes": processes}, default=str))


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        parts = [(f"{name}.{key}" if name else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        parts = [(f"{name}[{number}]", item) for number, item in enumerate(value)]
    else:
        return [(name, value)]
    return [pair for key, item in parts for pair in _flat(item, key)]


def changes(folder: Path, settings: dict[str, Any]) -> list[str]:
    """What differs between the run in `folder` and `settings`, a phrase each; [] for a new folder.

    Raises UserError where a run stands there of which nothing is known.
    """
    if not holds_a_run(folder):
        return []
    path = folder / RUN
    try:
        before = json.loads(path.read_text("utf-8"))["settings"]
        keys = sorted(before.keys() | settings.keys())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder}: holds a training, but {RUN} does not say of what ({error}); set another "
            f"output_dir, or train anew with `{ANEW}` (what stands there is set aside)"
        ) from error
    missing = object()
    differ = [k for k in keys if before.get(k, missing) != settings.get(k, missing)]
    return [f"{k} was {_short(before.get(k))} and is {_short(settings.get(k))}" for k in differ]


def refusal(folder: Path, changed: list[str]) -> str:
    """One line that says why a training may not go on in `folder`, and how to."""
    more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
    return (
        f"{folder}: was trained otherwise: {'; '.join(changed[:3])}{more}; set another output_dir, "
        f"or train anew with `{ANEW}` (what stands there is set aside)"
    )


def processes() -> int:
    """How many processes train together, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def holds_a_run(folder: Path) -> bool:
    """Whether a training has left anything in `folder` that another would mix with."""
    return bool(checkpoints(folder)) or any(
        (folder / name).exists() for name in (ADAPTER, RUN, TRAINED_WITH)
    )


def finished(folder: Path) -> int | None:
    """After how many steps the run in `folder` ended with the adapter that is there, or None."""
    try:
        made = json.loads((folder / TRAINED_WITH).read_text("utf-8"))
        whole = made["adapter"] == sha256_of(folder / ADAPTER)
        return int(made["steps"]) if whole else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def start_anew(folder: Path) -> Path:
    """Move an earlier run out of `folder`, into a new folder beside it; nothing is deleted."""
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


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
