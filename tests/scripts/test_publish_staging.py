"""What is staged: the listed files alone, without anything of this machine or of the data."""

import json
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.recipe import load_recipe
from scripts.model_card import model_card, names_of, read_records
from scripts.publish import stage, staged
from tests.conftest import ROOT
from tests.run_records import BASE, NAME

PUBLISH = Path(f"outputs/{NAME}/publish")


def staged_run() -> Path:
    recipe = load_recipe(f"{NAME}.yml")
    records = read_records(recipe)
    names = names_of(recipe, records.manifest.source_files)
    return stage(records, names, model_card(records, names))


def test_nothing_of_this_machine(run: Path) -> None:
    folder = staged_run()
    assert folder == PUBLISH
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == BASE
    assert "local_files_only" not in (folder / "tokenizer_config.json").read_text("utf-8")
    recipe = (folder / "recipe.yml").read_text("utf-8")
    assert "source: data/sample" in recipe and f"base_model: {BASE}" in recipe
    assert recipe.startswith("# A recipe of a test.\n")
    scores = json.loads((folder / "scores.json").read_text("utf-8"))
    assert (scores["source"], scores["base_model"]) == ("data/sample", BASE)
    for file in staged(folder):
        content = (folder / file.name).read_bytes()
        assert str(ROOT).encode() not in content and str(run).encode() not in content, file.name
        assert file.size == len(content)


def test_the_same_records_give_the_same_bytes(run: Path) -> None:
    first = staged(staged_run())
    assert staged(staged_run()) == first
    assert "README.md" in [file.name for file in first]


def test_an_earlier_staging_stays_where_a_new_one_is_refused(run: Path) -> None:
    before = staged(staged_run())
    recipe = Path(f"{NAME}.yml")
    recipe.write_text(recipe.read_text("utf-8") + "# see /home/me/notes\n", "utf-8")
    with pytest.raises(UserError, match="recipe.yml: would publish the path `/home/me/notes`"):
        staged_run()
    assert staged(PUBLISH) == before
    assert [path.name for path in PUBLISH.parent.glob("*publish*")] == ["publish"]


def test_an_adapter_that_was_cut_short(run: Path) -> None:
    records = read_records(load_recipe(f"{NAME}.yml"))
    names = names_of(records.recipe, records.manifest.source_files)
    adapter = records.adapter / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-100])
    with pytest.raises(UserError, match="adapter_model.safetensors: is no whole safetensors file"):
        stage(records, names, model_card(records, names))


def test_a_folder_that_cannot_be_written(run: Path) -> None:
    PUBLISH.write_text("in the way", "utf-8")
    with pytest.raises(UserError, match="publish: cannot be written"):
        staged_run()
    assert PUBLISH.read_text("utf-8") == "in the way"
