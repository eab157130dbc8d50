"""What a killed process leaves half-written: which checkpoints and caches are whole.

A process that is killed while it saves leaves a folder that looks like a checkpoint. Axolotl takes
the highest number unchecked, and crashes on such a one, or continues from zero momentum.
"""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from data_prep.console import say
from data_prep.hub import is_whole
from data_prep.recipe import Recipe
from data_prep.sources import sha256_of
from eval.adapter import CHECKPOINT

STATE = "trainer_state.json"  # the trainer writes it last
# Keys that shape the tokenised rows. Axolotl adds a hash of its own to the cache's path; it may
# leave these out (0.19: it hashes names of files, not their content).
SHAPING = (
    "datasets", "test_datasets", "chat_template", "chat_template_jinja", "chat_template_kwargs",
    "special_tokens",
    "tokens", "added_tokens_overrides", "base_model", "revision_of_model", "tokenizer_config",
    "tokenizer_type", "sequence_len", "eval_sequence_len", "excess_length_strategy",
    "sample_packing", "eval_sample_packing", "train_on_inputs", "group_by_length", "eot_tokens",
)  # fmt: skip
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                   "special_tokens_map.json", "chat_template.jinja")  # fmt: skip


def checkpoints(folder: Path) -> list[Path]:
    """Every `checkpoint-<step>` in `folder`, oldest step first."""
    found = (path for path in folder.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name))
    return sorted(found, key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def newest_whole(folder: Path, processes: int = 1) -> Path | None:
    """The newest checkpoint in `folder` from which training resumes exactly, or None."""
    newest_first = reversed(checkpoints(folder))
    return next((path for path in newest_first if not what_is_broken(path, processes)), None)


def set_aside_others(folder: Path, kept: Path | None, processes: int = 1) -> list[str]:
    """Rename what a new save may not be mixed with: broken checkpoints, and any after `kept`.

    Returns a line for each: what was renamed to what, and why. Nothing is deleted.
    """
    lines = []
    for checkpoint in checkpoints(folder):
        newer = kept is None or _step_of(checkpoint) > _step_of(kept)
        why = what_is_broken(checkpoint, processes) or ("newer than the one used" if newer else "")
        if why:
            moved = checkpoint.rename(free_name(folder / f"set-aside-{checkpoint.name}"))
            lines.append(f"{checkpoint}: {why}; set aside as {moved.name}")
    return lines


def what_is_broken(checkpoint: Path, processes: int = 1) -> str:
    """Why training cannot resume exactly from a checkpoint of `processes` processes; else ''."""
    try:
        state = json.loads((checkpoint / STATE).read_text("utf-8"))
        step, best = int(state["global_step"]), state.get("best_model_checkpoint")
    except FileNotFoundError:
        return f"its save was cut short (no {STATE})"
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"{STATE} is damaged ({error})"
    if step != _step_of(checkpoint):
        return f"{STATE} is that of step {step}"
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
        if not is_whole(path, read_all=True):
            return f"{path.relative_to(checkpoint)} is damaged or cut short"
    ranks = [f"_{rank}" for rank in range(processes)] if processes > 1 else [""]
    needed = [  # or what FSDP and DeepSpeed (`global_step*`) write in its place
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
        if why := "is gone" if not sibling.is_dir() else what_is_broken(sibling, processes):
            return f"the best checkpoint {sibling.name} {why}"
    return ""


def free_name(path: Path) -> Path:
    """`path`, or where that exists, with the first number behind it that is free."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def cache_folder(recipe: Recipe, files: dict[str, str]) -> Path:
    """Where the tokenised rows belong: below `dataset_prepared_path`, or else below the data.

    `files`: hashes of the prepared files by name, as the manifest has them.
    """
    config = recipe.config
    tokenizer = Path(str(config.get("tokenizer_config") or config["base_model"]))
    jinja = Path(str(config.get("chat_template_jinja") or "/"))  # a file, or the template itself
    shaping = {
        "rows": [files["train.jsonl"], files["validation.jsonl"]],
        "recipe": {key: config.get(key) for key in SHAPING},
        "tokenizer": [sha256_of(tokenizer / n) if (tokenizer / n).is_file() else ""
                      for n in TOKENIZER_FILES],
        "template": jinja.read_text("utf-8") if jinja.is_file() else "",
        "versions": [version(name) for name in ("axolotl", "transformers", "tokenizers")],
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(shaping, sort_keys=True, default=str).encode()).hexdigest()
    return Path(config.get("dataset_prepared_path") or recipe.data_dir / "tokenized") / key[:16]


def set_aside_cut_caches(folder: Path) -> None:
    """Rename what an interrupted run left half-written; the last files are the JSON ones."""
    for cache in folder.glob("*/"):
        whole = all((cache / name).is_file() for name in ("state.json", "dataset_info.json"))
        if not whole and not cache.name.startswith("set-aside-"):
            moved = cache.rename(free_name(folder / f"set-aside-{cache.name}"))
            say(f"{cache}: cut short; set aside as {moved.name}", error=True)
