"""What makes a merged folder fit to be given away: the recipe's tokenizer, no machine's paths.

Axolotl copies the base model's files as they are: its chat template, which may not be the one that
was trained, and any path that somebody's `save_pretrained` left in them.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from data_prep.errors import UserError
from data_prep.prompt import PromptEncoder
from data_prep.recipe import Recipe

TEXTS = (".json", ".md", ".txt", ".jinja", ".py", ".yml", ".yaml")
MANY_WORDS = ("tokenizer.json", "vocab.json", "added_tokens.json")  # a token may look like a path


def publish(folder: Path, recipe: Recipe, encoder: PromptEncoder, end: int) -> None:
    """Save the recipe's tokenizer into `folder`, and take absolute paths out of its files.

    `end`: the token with which training ended a summary; generation from the folder stops there
    too. Raises UserError where a path of this machine is left.
    """
    encoder.tokenizer.save_pretrained(folder)
    if end not in (stops := stop_tokens(folder)):
        path = folder / "generation_config.json"
        settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        settings["eos_token_id"] = [end, *stops]
        path.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    for path in sorted(folder.glob("*.json")):
        if path.name not in MANY_WORDS and not path.name.endswith(".index.json"):
            before = json.loads(path.read_text("utf-8"))
            if (after := _without_paths(before)) != before:
                path.write_text(json.dumps(after, indent=2, ensure_ascii=False) + "\n", "utf-8")
    model_card = folder / "README.md"
    if model_card.is_file():
        text = model_card.read_text("utf-8")
        for place in _places(recipe):
            text = text.replace(f"{place}/", "")
        model_card.write_text(text, "utf-8")
    if left := paths_in(folder, recipe):
        raise UserError(
            f"{left[0]}: names a folder of this machine; take it out of that file of the base model"
        )


def end_token(encoder: PromptEncoder, row: dict[str, Any]) -> int:
    """The token that ends a summary in training."""
    return [label for label in encoder.training_ids(row)[1] if label != -100][-1]


def stop_tokens(folder: Path) -> list[int]:
    """Token ids at which generation from a model's folder stops by its own settings."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ids = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
        if ids is not None:
            return list(ids) if isinstance(ids, list) else [ids]
    return []


def paths_in(folder: Path, recipe: Recipe) -> list[str]:
    """Files in `folder` that name a folder of this machine; weights by their metadata."""
    found = []
    for path in sorted(folder.iterdir()):
        text = ""
        if path.suffix in TEXTS:
            text = path.read_text("utf-8", "replace")
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as weights:
                text = json.dumps(weights.metadata() or {})
        if any(place in text for place in _places(recipe)):
            found.append(path.name)
    return found


def _places(recipe: Recipe) -> list[str]:
    """Folders of this machine that a file may name: the run's own, the model's, the recipe's."""
    base = Path(recipe.config["base_model"])
    places = [Path.cwd(), recipe.output_dir.resolve(), recipe.path.resolve().parent]
    places += [base.resolve(), base.absolute()] if base.is_dir() else []
    return [str(p) for p in sorted(set(places), key=lambda p: -len(str(p))) if len(p.parts) > 2]


def _without_paths(value: Any) -> Any:
    """The same JSON, each absolute path in it cut down to its last name."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    if isinstance(value, str) and "\n" not in value and Path(value).is_absolute():
        return Path(value).name
    return value
