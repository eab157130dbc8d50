"""Hub ids, licences and paths: taken from the recipe, or asked for in one clear line."""

from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from data_prep.recipe import Recipe
from data_prep.settings import Summarization
from scripts.model_card import Names, is_absolute, is_hub_id, names_of, portable, replaced

MISTRAL = "mistralai/Mistral-7B-Instruct-v0.2"


def recipe_of(base_model: str, **block: Any) -> Recipe:
    block = {"source": "knkarthick/samsum", "license": "CC-BY-NC-ND-4.0", **block}
    config = {"base_model": base_model, "output_dir": "outputs/r", "datasets": [{"path": "d/r/t"}]}
    settings = Summarization.model_validate({"instruction": "{dialogue}", **block})
    return Recipe(Path("r.yml"), config, settings)


def test_a_recipe_of_the_hub_needs_nothing_more() -> None:
    names = names_of(recipe_of(MISTRAL), {})
    expected = (MISTRAL, "apache-2.0", "knkarthick/samsum", "CC-BY-NC-ND-4.0", False, False)
    assert names == Names(*expected)
    assert names.noncommercial and names.license == "cc-by-nc-nd-4.0"


def test_data_that_allow_all_leave_the_base_models_licence() -> None:
    for license in ("CC0-1.0", "CC-BY-4.0", "MIT", "sync-1.0"):
        names = names_of(recipe_of(MISTRAL, license=license), {})
        assert not names.noncommercial and names.license == "apache-2.0"
    for license in ("CC-BY-NC-4.0", "Research only, non-commercial"):
        names = names_of(recipe_of(MISTRAL, license=license), {})
        assert names.noncommercial and names.license == license.lower()


def test_a_local_model_is_named_by_the_recipe_or_the_option(tmp_path: Path) -> None:
    told = {"base_model": "a/b", "base_license": "MIT"}
    with pytest.raises(UserError, match="summarization.publish.base_model, or with --base-model"):
        names_of(recipe_of(str(tmp_path)), {})
    named = names_of(recipe_of(str(tmp_path), publish=told), {})
    assert (named.base_model, named.base_license, named.local_base) == ("a/b", "mit", True)
    assert names_of(recipe_of(str(tmp_path), publish=told), {}, MISTRAL).base_model == MISTRAL
    with pytest.raises(UserError, match="--base-model: ../x is no hub id"):
        names_of(recipe_of(str(tmp_path)), {}, "../x")
    with pytest.raises(UserError, match="licence of a/b is not known here; name it in"):
        names_of(recipe_of("a/b"), {})


def test_a_folder_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("models/small") and is_hub_id(MISTRAL)
    (tmp_path / "models").mkdir()
    for name in ("models/small", "/models/small", "a/b/c", "../small", "small"):
        assert not is_hub_id(name), name


def test_data_read_from_a_file_have_the_id_that_the_recipe_names() -> None:
    source_files = {"train.json": "0"}
    assert names_of(recipe_of(MISTRAL), source_files).dataset is None
    named = names_of(recipe_of(MISTRAL, publish={"dataset": "x/y"}), source_files)
    assert (named.dataset, named.local_data) == ("x/y", True)


def test_absolute_paths_become_relative_and_comments_stay() -> None:
    recipe = recipe_of("/models/small", source="/data/corpus.7z", publish={"base_model": MISTRAL})
    recipe.config["output_dir"] = "/data"
    recipe.config["datasets"] = [{"path": "C:\\rows\\train.jsonl"}]
    places = portable(recipe, names_of(recipe, {}))
    text = "a: /data/corpus.7z  # why\nb: /data\nc: C:\\rows\\train.jsonl\nd: /models/small\n"
    assert replaced(text, places) == (
        f"a: data/corpus.7z  # why\nb: outputs/r\nc: data/r/train.jsonl\nd: {MISTRAL}\n"
    )
    assert not portable(recipe_of(MISTRAL), names_of(recipe_of(MISTRAL), {}))
    assert is_absolute("~/x") and is_absolute("D:/x") and not is_absolute("data/x")
