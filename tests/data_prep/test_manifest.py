"""The manifest's contents, and the prepared data that `check_prepared` refuses."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from data_prep.prepare import Manifest, check_prepared, prepare
from data_prep.recipe import Recipe, load_recipe
from tests.data_prep.corpora import (
    OUTPUTS,
    chat,
    chats,
    manifest_of,
    pairs,
    recipe_for,
    write_folder,
    write_recipe,
)


def test_manifest_lists_every_dropped_row(tmp_path: Path) -> None:
    corpus = chats(train=3)
    corpus["train"] += [{**chat(0), "id": f"again {n}"} for n in range(2500)]  # several chunks
    corpus["validation"].append({**chat(1), "id": "void", "summary": ""})
    recipe = recipe_for(tmp_path, corpus)
    prepare(recipe)
    dropped = manifest_of(recipe)["dropped"]
    assert dropped[0] == {"split": "validation", "id": "void", "reason": "empty summary"}
    assert [entry["id"] for entry in dropped[1:]] == [f"again {n}" for n in range(2500)]


def test_manifest_lists_overlong_rows_without_cutting_them(tmp_path: Path, smollm2: Path) -> None:
    corpus = chats()
    for split, row in (("train", 3), ("test", 1)):
        corpus[split][row]["dialogue"] = f"Ola: {split} " + "tram " * 300
    corpus_folder = write_folder(tmp_path / "corpus", corpus)
    path = write_recipe(tmp_path, corpus_folder, sequence_len=256, base_model=str(smollm2))
    recipe = load_recipe(path)
    tokens = prepare(recipe).tokens
    overlong = manifest_of(recipe)["overlong"]
    assert [(entry["split"], entry["id"]) for entry in overlong] == [
        ("test", corpus["test"][1]["id"]),
        ("train", "r3"),
    ]
    assert all(300 < entry["tokens"] < 450 for entry in overlong)
    assert tokens.train and tokens.train.rows == 6
    assert tokens.train.longest == overlong[1]["tokens"]
    assert pairs(recipe)[3][0].count("tram") == 300


def test_manifest_says_why_it_has_no_token_counts(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "corpus", chats())
    recipe = load_recipe(write_recipe(tmp_path, source, base_model=str(tmp_path / "nowhere")))
    tokens = prepare(recipe).tokens
    assert tokens.tokenizer is None and tokens.train is None
    assert tokens.why and "nowhere" in tokens.why
    assert manifest_of(recipe)["counts"]["train"]["written"] == 6


def test_manifest_records_source_and_versions(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, chats(), license="CC0-1.0", revision="abc")
    returned = prepare(recipe)
    written = manifest_of(recipe)
    assert {**written, **json.loads(returned.model_dump_json(exclude={"digest"}))} == written
    assert written["source"] == str(tmp_path / "corpus")
    assert (written["license"], written["revision"]) == ("CC0-1.0", "abc")
    files = (tmp_path / "corpus").iterdir()
    assert written["source_files"] == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }
    assert written["versions"]["axolotl"] == "0.19.0"


@pytest.fixture
def prepared(tmp_path: Path) -> Recipe:
    recipe = recipe_for(tmp_path, chats())
    prepare(recipe)
    return recipe


def stale(recipe: Recipe) -> str:
    with pytest.raises(UserError) as caught:
        check_prepared(recipe)
    assert f"run `python -m data_prep {recipe.path}" in str(caught.value)
    return str(caught.value)


def test_check_prepared_returns_the_manifest(prepared: Recipe) -> None:
    assert check_prepared(prepared) == Manifest.model_validate(manifest_of(prepared))


@pytest.mark.parametrize("name", OUTPUTS)
def test_check_prepared_refuses_a_missing_file(prepared: Recipe, name: str) -> None:
    (prepared.data_dir / name).unlink()
    assert f"{prepared.data_dir / name}: " in (message := stale(prepared)) and "missing" in message


@pytest.mark.parametrize("name", OUTPUTS[1:])
def test_check_prepared_refuses_a_changed_file(prepared: Recipe, name: str) -> None:
    path = prepared.data_dir / name
    path.write_text(path.read_text("utf-8").replace("tram", "taxi"), "utf-8")
    assert f"{path}: missing or changed" in stale(prepared)
    with pytest.raises(UserError, match=f"{name}, which was edited since.* --overwrite`"):
        prepare(prepared)
    prepare(prepared, overwrite=True)
    check_prepared(prepared)


@pytest.mark.parametrize("data", [b"", b'{"files": ', b"\xff", b"[]", b"{}"])
def test_check_prepared_refuses_a_damaged_manifest(prepared: Recipe, data: bytes) -> None:
    (prepared.data_dir / "manifest.json").write_bytes(data)
    stale(prepared)


@pytest.mark.parametrize(
    "change",
    [{"instruction": "Sum up:\n{dialogue}"}, {"cleaning": {"decontaminate": False}},
     {"train_rows": 5}, {"source": "data_prep/sample"}],
)  # fmt: skip
def test_check_prepared_refuses_a_changed_setting(prepared: Recipe, change: dict[str, Any]) -> None:
    folder = prepared.path.parent
    changed = load_recipe(write_recipe(folder, folder / "corpus", change))
    assert f"summarization.{next(iter(change))} changed" in stale(changed)


def test_check_prepared_accepts_other_decoding_settings(prepared: Recipe) -> None:
    folder = prepared.path.parent
    decoding = {"decoding": {"batch_tokens": 3}}
    check_prepared(load_recipe(write_recipe(folder, folder / "corpus", decoding)))
