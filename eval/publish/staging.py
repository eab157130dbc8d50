"""The folder that is uploaded: card, adapter, tokenizer, recipe and scores, and nothing else.

Use: `stage(records, names, model_card(records, names))`, which returns `outputs/<recipe>/publish`.
"""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import ModelCard

from data_prep.errors import writing_to
from data_prep.sources import sha256_of
from data_prep.training.run_record import ADAPTER
from eval.publish.leaks import check_staged, corpus_lines
from eval.publish.names import Names, is_absolute, portable, replaced
from eval.publish.records import Records

FOLDER = "publish"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json") + (
    "tokenizer.model",
    "chat_template.jinja",
)
FILES = ("README.md", ADAPTER, "adapter_config.json", "recipe.yml", "scores.json", *TOKENIZER)


class Staged(NamedTuple):
    """A file of the staging folder: name, bytes, SHA-256."""

    name: str
    size: int
    sha256: str


def stage(records: Records, names: Names, card: ModelCard) -> Path:
    """Write the folder and look through it; an earlier one stays whole until the new one stands.

    Raises UserError where the folder cannot be written, or would publish what it may not.
    """
    folder = records.adapter / FOLDER
    partial = folder.with_name(f".{FOLDER}.{os.getpid()}.partial")
    try:
        with writing_to(folder):
            partial.mkdir(parents=True)
            _write(partial, records, names, card)
        check_staged(partial, corpus_lines(records.recipe))
        with writing_to(folder):
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def staged(folder: Path) -> list[Staged]:
    """The files of the folder by name."""
    return [
        Staged(path.name, path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir())
    ]


def _write(folder: Path, records: Records, names: Names, card: ModelCard) -> None:
    """Copy from the list of what may be published alone; Axolotl's own README is not on it."""
    places = portable(records.recipe, names)
    (folder / "README.md").write_text(str(card), "utf-8")
    shutil.copyfile(records.adapter / ADAPTER, folder / ADAPTER)
    _write_json(folder / "adapter_config.json", _adapter_config(records, names))
    recipe = records.recipe.path.read_text("utf-8")
    (folder / "recipe.yml").write_text(replaced(recipe, places), "utf-8")
    scores = {
        key: replaced(value, places) if isinstance(value, str) else value
        for key, value in records.scores.items()
    }
    _write_json(folder / "scores.json", scores)
    for name in TOKENIZER:
        if (records.adapter / name).is_file():
            shutil.copyfile(records.adapter / name, folder / name)
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        _write_json(tokenizer, _tokenizer_config(json.loads(tokenizer.read_text("utf-8"))))


def _adapter_config(records: Records, names: Names) -> dict[str, object]:
    config = {**records.adapter_config, "base_model_name_or_path": names.base_model}
    if names.local_base:
        config["revision"] = None  # of the folder, not of the hub's model
    return config


def _tokenizer_config(config: dict[str, object]) -> dict[str, object]:
    """Without where the tokenizer was loaded from, which would bind others to a folder too."""
    dropped = {"is_local", "local_files_only"}
    if is_absolute(str(config.get("name_or_path", ""))):
        dropped.add("name_or_path")
    return {key: value for key, value in config.items() if key not in dropped}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
