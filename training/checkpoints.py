"""Which checkpoint a training goes on from: the newest whole one; broken ones are set aside.

A process that is killed while it saves leaves a folder that looks like a checkpoint. Axolotl takes
the highest number unchecked, and crashes on such a one, or goes on from zero momentum.
"""

import hashlib
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path

from data_prep.hub import is_whole
from data_prep.recipe import Recipe
from data_prep.sources import sha256_of

# Axolotl adds a key of its own below ours; these are what that one may leave out.
SHAPING = (
    ("datasets", "test_datasets", "chat_template", "chat_template_jinja", "special_tokens")
    + ("tokens", "added_tokens_overrides", "base_model", "revision_of_model", "tokenizer_config")
    + ("tokenizer_type", "sequence_len", "eval_sequence_len", "excess_length_strategy")
    + ("sample_packing", "eval_sample_packing", "train_on_inputs", "group_by_length", "eot_tokens")
)
TOKENIZER_FILES = (
    ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    + ("special_tokens_map.json", "chat_template.jinja")
)  # fmt: skip

STATE = "trainer_state.json"  # the trainer writes it last


def newest_whole(folder: Path, processes: int = 1) -> Path | None:
    """The newest checkpoint in `folder` from which training can go on exactly, or None."""
    for checkpoint in reversed(checkpoints(folder)):
        if not what_is_broken(checkpoint, processes):
            return checkpoint
    return None


def set_aside_others(folder: Path, kept: Path | None, processes: int = 1) -> list[str]:
    """Rename what a new save may not be mixed with: broken checkpoints, and any after `kept`.

    Returns a line for each: what was renamed to what, and why. Nothing is deleted.
    """
    lines = []
    for checkpoint in checkpoints(folder):
        newer = kept is None or number_of(checkpoint) > number_of(kept)
        why = what_is_broken(checkpoint, processes) or ("newer than the one used" if newer else "")
        if why:
            moved = free_name(folder / f"set-aside-{checkpoint.name}")
            checkpoint.rename(moved)
            lines.append(f"{checkpoint}: {why}; set aside as {moved.name}")
    return lines


def checkpoints(folder: Path) -> list[Path]:
    """Every `checkpoint-<step>` in `folder`, oldest step first."""
    found = [p for p in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=number_of)


def number_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was made."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def what_is_broken(checkpoint: Path, processes: int = 1) -> str:
    """Why training cannot go on exactly from a checkpoint of `processes` processes; else ''."""
    try:
        state = json.loads((checkpoint / STATE).read_text("utf-8"))
        step, best = int(state["global_step"]), state.get("best_model_checkpoint")
    except FileNotFoundError:
        return f"its save was cut short (no {STATE})"
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"{STATE} is damaged ({error})"
    if step != number_of(checkpoint):
        return f"{STATE} is that of step {step}"
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
        if not is_whole(path):
            return f"{path.relative_to(checkpoint)} is cut short"
    if missing := _missing(checkpoint, processes):
        return f"has no {missing}"
    if best and Path(best).name != checkpoint.name:
        sibling = checkpoint.parent / Path(best).name  # the folder may have been moved
        if why := "is gone" if not sibling.is_dir() else what_is_broken(sibling, processes):
            return f"the best checkpoint {sibling.name} {why}"
    return ""


def _missing(checkpoint: Path, processes: int) -> str:
    """What of model, optimiser, schedule and random state is not there (DeepSpeed, FSDP too)."""
    random = ["rng_state.pth"]
    if processes > 1:
        random = [f"rng_state_{rank}.pth" for rank in range(processes)]
    either = [
        ("*model*.safetensors", "pytorch_model_fsdp*", "*model*.bin", "global_step*"),
        ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
        ("scheduler.pt", "global_step*"),
        *((name,) for name in random),
    ]
    for patterns in either:
        if not any(True for pattern in patterns for _ in checkpoint.glob(pattern)):
            return patterns[0].replace("*", "")
    return ""


def free_name(path: Path) -> Path:
    """`path`, or with the first number behind it under which nothing stands yet."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def cache_folder(recipe: Recipe, files: dict[str, str]) -> Path:
    """The folder below the recipe's `dataset_prepared_path`, or else below its data.

    `files`: hashes of the prepared files by name, as the manifest has them.
    """
    config = recipe.config
    tokenizer = Path(str(config.get("tokenizer_config") or config["base_model"]))
    made_of = {
        "rows": [files["train.jsonl"], files["validation.jsonl"]],
        "recipe": {key: config.get(key) for key in SHAPING},
        "tokenizer": {
            name: sha256_of(tokenizer / name)
            for name in TOKENIZER_FILES
            if (tokenizer / name).is_file()
        },
        "versions": [version(name) for name in ("axolotl", "transformers", "tokenizers")],
    }
    text = json.dumps(made_of, sort_keys=True, default=str)
    base = Path(config.get("dataset_prepared_path") or recipe.data_dir / "tokenized")
    return base / hashlib.sha256(text.encode()).hexdigest()[:16]


def set_aside_cut_caches(folder: Path) -> None:
    """Rename what an interrupted run left half written; the last files are the JSON ones."""
    for cache in folder.glob("*/"):
        whole = all((cache / name).is_file() for name in ("state.json", "dataset_info.json"))
        if not whole and not cache.name.startswith("set-aside-"):
            moved = free_name(folder / f"set-aside-{cache.name}")
            cache.rename(moved)
            print(f"{cache}: cut short; set aside as {moved.name}", file=sys.stderr)
