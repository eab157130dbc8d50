"""Where Axolotl keeps the tokenised rows: one folder for each content and each way to shape it.

Axolotl's own key leaves out the content of the files, and that of a local tokenizer: edited rows
would go unnoticed. And a cache whose writing was cut short would crash each later run.
"""

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

from data_prep.recipe import Recipe
from data_prep.sources import sha256_of
from data_prep.training.checkpoints import free_name

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
