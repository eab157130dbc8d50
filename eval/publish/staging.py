"""The folder that is uploaded: card, weights, tokenizer, recipe and scores, and nothing else.

Use: `stage(records, names, model_card(records, names))`, which returns `outputs/<recipe>/publish`.
A merged model (`merged`: its folder) goes to `publish-merged` instead.
"""

import json
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import ModelCard

from data_prep.errors import writing_to
from data_prep.sources import sha256_of
from data_prep.training.adapter import ADAPTER
from eval.publish.leaks import check_staged, corpus_texts
from eval.publish.names import Names, is_absolute, portable, replaced
from eval.publish.records import Records

FOLDER = "publish"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json") + (
    "tokenizer.model",
    "chat_template.jinja",
)
MERGED = ("config.json", "generation_config.json", "model*.safetensors") + (
    "model.safetensors.index.json",
    "merge_proof.json",
)
RECORDS = ("README.md", "recipe.yml", "scores.json", "adapter_config.json")
FILES = (*RECORDS, ADAPTER, *MERGED, *TOKENIZER)  # patterns of all that is ever published


class Staged(NamedTuple):
    """A file of the staging folder: name, bytes, SHA-256."""

    name: str
    size: int
    sha256: str


def stage(records: Records, names: Names, card: ModelCard, merged: Path | None = None) -> Path:
    """Write the folder and look through it; an earlier one stays whole until the new one stands.

    Raises UserError where the folder cannot be written, or would publish what it may not.
    """
    folder = records.adapter / (FOLDER if merged is None else f"{FOLDER}-merged")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        with writing_to(folder):
            partial.mkdir(parents=True)
            _write_records(partial, records, names, card)
            if merged is None:
                _write_adapter(partial, records, names)
            else:
                _write_merged(partial, merged)
        check_staged(partial, corpus_texts(records.recipe))
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


def _write_records(folder: Path, records: Records, names: Names, card: ModelCard) -> None:
    """Card, recipe and scores, our names in place of this machine's paths."""
    places = portable(records.recipe, names)
    (folder / "README.md").write_text(str(card), "utf-8")
    recipe = records.recipe.path.read_text("utf-8")
    (folder / "recipe.yml").write_text(replaced(recipe, places), "utf-8")
    scores = {
        key: replaced(value, places) if isinstance(value, str) else value
        for key, value in records.scores.items()
    }
    _write_json(folder / "scores.json", scores)


def _write_adapter(folder: Path, records: Records, names: Names) -> None:
    """Copy what is on the list alone; Axolotl's own README is not."""
    _take(records.adapter, folder, (ADAPTER, *TOKENIZER))
    _write_json(folder / "adapter_config.json", _adapter_config(records, names))
    _clean_tokenizer(folder)


def _write_merged(folder: Path, merged: Path) -> None:
    _take(merged, folder, (*MERGED, *TOKENIZER))
    _clean_tokenizer(folder)


def _take(source: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in patterns):
            shutil.copyfile(path, folder / path.name)


def _clean_tokenizer(folder: Path) -> None:
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
