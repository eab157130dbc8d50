"""Sibling recipes: each header lists the keys that differ from another recipe.

The differences are computed from the files, and the header must mention every one of them.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

SIBLINGS = {
    "smollm2_samsum_corpus": "smollm2_samsum",
    "smollm2_best_checkpoint": "smollm2_samsum",
    "mistral_samsum_qlora": "mistral_samsum",
    "qwen3_samsum": "mistral_samsum",
    "llama3_samsum": "mistral_samsum",
}
# the notebook's recipe differs from ours in nearly every key, as does the GPU's from the CPU's
ALONE = {"smollm2_samsum", "smollm2_samsum_gpu", "mistral_samsum", "mistral_samsum_notebook"}
FOLDERS = {"datasets", "test_datasets", "output_dir"}


def keys_that_differ(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    """Return the names of differing keys, for nested keys their last part."""
    found = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    if "summarization" in found:
        found.remove("summarization")
        found |= keys_that_differ(first["summarization"], second["summarization"])
    if "decoding" in found:
        found.remove("decoding")
        found |= keys_that_differ(first["decoding"], second["decoding"])
    return found


def read(name: str) -> tuple[str, dict[str, Any]]:
    text = (ROOT / f"recipes/{name}.yml").read_text("utf-8")
    return text.split("\n\n")[0], yaml.safe_load(text)


def test_every_recipe_is_a_sibling_or_listed_as_alone() -> None:
    assert {path.stem for path in Path(ROOT / "recipes").glob("*.yml")} == SIBLINGS.keys() | ALONE


@pytest.mark.parametrize(("name", "of"), SIBLINGS.items(), ids=SIBLINGS.keys())
def test_the_header_lists_every_key_that_differs(name: str, of: str) -> None:
    header, recipe = read(name)
    _, other = read(of)
    assert f"{of}.yml" in header
    differ = keys_that_differ(recipe, other)
    assert differ & FOLDERS == FOLDERS and "folders" in header
    words = set(re.findall(r"\w+", header))
    assert {key for key in differ - FOLDERS if key not in words} == set()
    for key in FOLDERS - {"output_dir"}:  # only the path differs in these
        assert {**recipe[key][0], "path": ""} == {**other[key][0], "path": ""}


def test_a_key_missing_from_the_header_is_noticed() -> None:
    _, recipe = read("mistral_samsum_qlora")
    _, other = read("mistral_samsum")
    assert "lora_r" not in keys_that_differ(recipe, other)
    recipe["lora_r"] = 4
    recipe["summarization"]["decoding"]["num_beams"] = 2
    assert {"lora_r", "num_beams"} <= keys_that_differ(recipe, other)
