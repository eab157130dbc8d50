"""Preparing a recipe's data: its rows, its refusals, and outputs that are never half-written."""

import hashlib
import json
import resource
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.prompt import Example, read_examples
from data_prep.recipe import Recipe, load_recipe
from tests.data_prep.corpora import (
    OUTPUTS,
    chat,
    chats,
    error_line,
    manifest_of,
    outputs,
    pairs,
    recipe_for,
    run_data_prep,
    write_folder,
    write_recipe,
)


def test_rows_are_chat_rows_for_axolotl(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, chats(train=1))
    prepare(recipe)
    row = chat(0)
    expected = Example.build(
        "r0", row["dialogue"], row["summary"], recipe.summarization.instruction
    )
    assert read_examples(recipe.data_dir / "train.jsonl") == [expected]
    line = json.loads((recipe.data_dir / "train.jsonl").read_text("utf-8"))
    assert list(line) == ["id", "dialogue", "summary", "messages"]
    assert sorted(path.name for path in recipe.data_dir.iterdir()) == list(OUTPUTS)


def test_train_rows_takes_the_first_rows_of_the_source(tmp_path: Path) -> None:
    corpus = chats()
    corpus["train"].insert(1, {**corpus["train"][0], "id": "again"})
    recipe = recipe_for(tmp_path, corpus, train_rows=4)
    counts = prepare(recipe).counts
    assert counts["train"].model_dump() == {
        "read": 4, "written": 3, "references": 0, "dropped": {"exact duplicate": 1}
    }  # fmt: skip
    assert counts["test"].read == 2
    assert [row.id for row in read_examples(recipe.data_dir / "train.jsonl")] == ["r0", "r1", "r2"]


def test_train_rows_may_equal_the_size_of_the_corpus(tmp_path: Path) -> None:
    assert prepare(recipe_for(tmp_path, chats(), train_rows=6)).counts["train"].read == 6


@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_other_column_names(tmp_path: Path, ending: str) -> None:
    renamed = {
        split: [{"id": r["id"], "conversation": r["dialogue"], "tl;dr": r["summary"]} for r in rows]
        for split, rows in chats().items()
    }
    recipe = recipe_for(
        tmp_path, renamed, ending, dialogue_column="conversation", summary_column="tl;dr"
    )
    prepare(recipe)
    assert pairs(recipe)[0] == (chat(0)["dialogue"], chat(0)["summary"])


def test_ids_are_kept_as_text_or_generated(tmp_path: Path) -> None:
    corpus = chats(train=3)
    corpus["train"][0]["id"] = 13_828_807
    corpus["train"][1]["id"] = None
    del corpus["train"][2]["id"]
    recipe = recipe_for(tmp_path, corpus)
    prepare(recipe)
    ids = [row.id for row in read_examples(recipe.data_dir / "train.jsonl")]
    assert ids == ["13828807", "train-00001", "train-00002"]


def refusal(recipe: Recipe) -> str:
    with pytest.raises(UserError) as caught:
        prepare(recipe)
    assert not list(recipe.data_dir.glob("*")), "half-written files are left"
    return str(caught.value)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_repeated_ids_in_evaluation_rows_are_refused(tmp_path: Path, split: str) -> None:
    corpus = chats()
    corpus[split][1]["id"] = corpus[split][0]["id"]
    message = refusal(recipe_for(tmp_path, corpus))
    assert f"{split}: id `{corpus[split][0]['id']}` occurs twice" in message
    assert "make the ids unique" in message


@pytest.mark.parametrize("value", [[1, 2], {"Ola": "hi"}, 7, True])
def test_a_dialogue_that_is_not_text_is_refused(tmp_path: Path, value: object) -> None:
    corpus = chats()
    corpus["train"][4]["dialogue"] = value
    message = refusal(recipe_for(tmp_path, corpus))
    assert f"{tmp_path}/corpus/train.json row 5: `dialogue` is " in message
    assert "fix the row" in message


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    corpus = chats()
    corpus["train"][4]["dialogue"] = "Ola: \ud83d"
    recipe = recipe_for(tmp_path, corpus)
    lines = "".join(json.dumps(row) + "\n" for row in corpus["train"])
    (tmp_path / "corpus/train.json").write_text(lines, "utf-8")
    message = refusal(recipe)
    assert f"{tmp_path}/corpus/train.json" in message


def test_a_missing_column_lists_the_columns_found(tmp_path: Path) -> None:
    message = refusal(recipe_for(tmp_path, chats(), summary_column="abstract"))
    assert f"{tmp_path}/corpus/test.json row 1: has no column `abstract`" in message
    assert "(found: id, dialogue, summary)" in message
    assert "set summarization.dialogue_column and summarization.summary_column" in message


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_without_usable_rows_is_refused(tmp_path: Path, split: str) -> None:
    corpus = chats()
    corpus[split] = [{**chat(1), "summary": ""}]
    message = refusal(recipe_for(tmp_path, corpus))
    assert f"{tmp_path}/corpus: split `{split}` has no usable row (1 read)" in message
    assert "check the source" in message


def test_train_rows_above_the_size_of_the_corpus_is_refused(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, chats(), train_rows=7)
    message = refusal(recipe)
    assert f"{recipe.path}: summarization.train_rows is 7" in message
    assert "has 6 training rows; lower it or write `all`" in message


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    corpus = chats(train=1200)
    corpus["train"].append({**chat(0), "id": "again", "dialogue": "Ola: </s> [INST]\r\n"})
    recipe = recipe_for(tmp_path, corpus)
    prepare(recipe)
    first = outputs(recipe.data_dir)
    prepare(recipe)
    assert outputs(recipe.data_dir) == first
    assert list(first) == list(OUTPUTS)
    assert manifest_of(recipe)["files"] == {
        name: hashlib.sha256(data).hexdigest() for name, data in first.items() if "jsonl" in name
    }


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_failed_run_keeps_the_earlier_outputs(tmp_path: Path, split: str) -> None:
    recipe = recipe_for(tmp_path, chats(train=1500))
    prepare(recipe)
    earlier = outputs(recipe.data_dir)
    corpus: dict[str, list[Any]] = chats(train=3000, test=1500, validation=1500)
    corpus[split].append("a text")
    with pytest.raises(UserError, match="not an object"):
        prepare(recipe_for(tmp_path, corpus))
    assert outputs(recipe.data_dir) == earlier


def test_source_in_the_output_folder_is_not_overwritten(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "data", chats(), ".jsonl")
    (source / "val.jsonl").rename(source / "validation.jsonl")
    before = outputs(source)
    with pytest.raises(UserError, match="data"):
        prepare(load_recipe(write_recipe(tmp_path, source)))
    assert outputs(source) == before


# The file that no longer fits: the train rows or, once all rows are written, the manifest.
DISK_FULL = {
    "train.jsonl": (chats(train=3000), 100_000),
    "manifest.json": (chats(train=2), 2_000),
}


@pytest.mark.parametrize("file", DISK_FULL)
def test_a_full_disk_keeps_the_earlier_outputs(tmp_path: Path, file: str) -> None:
    corpus, size = DISK_FULL[file]
    recipe = recipe_for(tmp_path, chats(train=1))
    prepare(recipe)
    earlier = outputs(recipe.data_dir)
    path, limits = recipe_for(tmp_path, corpus).path, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        done = run_data_prep(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert outputs(recipe.data_dir) == earlier
    assert done.returncode == 2
    line = error_line(done.stderr)
    assert str(recipe.data_dir) in line
    assert "cannot be written (File too large)" in line
    assert "free some space" in line


def test_rows_of_another_recipe_are_overwritten_only_when_asked(tmp_path: Path) -> None:
    """Two recipes that differ only in the prompt share one data folder."""
    first = recipe_for(tmp_path, chats())
    prepare(first)
    before = outputs(first.data_dir)
    copy = first.path.with_name("copy.yml")
    copy.write_text(first.path.read_text("utf-8").replace("{dialogue}", "Now: {dialogue}"), "utf-8")
    second = load_recipe(copy)
    with pytest.raises(UserError) as refused:
        prepare(second)
    words = str(refused.value)
    assert f"holds rows that recipe {first.name} prepared; point `datasets`" in words
    assert "data/copy" in words and f"`python -m data_prep {copy} --overwrite`" in words
    assert outputs(first.data_dir) == before
    assert prepare(second, overwrite=True).recipe == "copy"
    prepare(second)  # its own rows by now


def test_a_copy_of_the_recipe_prepares_the_same_rows(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, chats())
    prepare(recipe)
    before = recipe.data_dir.joinpath("train.jsonl").read_bytes()
    copy = recipe.path.with_name("kept.yml")
    copy.write_bytes(recipe.path.read_bytes())
    prepare(load_recipe(copy))
    assert recipe.data_dir.joinpath("train.jsonl").read_bytes() == before


def test_files_not_written_by_data_prep_are_not_overwritten(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, chats())
    recipe.data_dir.mkdir(parents=True)
    own = recipe.data_dir / "train.jsonl"
    own.write_text("{}\n", "utf-8")
    with pytest.raises(UserError, match="holds files that data_prep did not write"):
        prepare(recipe)
    assert own.read_text("utf-8") == "{}\n"
    manifest = recipe.data_dir / "manifest.json"
    for text in ("{", '{"name": "a web page"}'):
        manifest.write_text(text, "utf-8")
        with pytest.raises(UserError, match="holds files that data_prep did not write"):
            prepare(recipe)
        assert (own.read_text("utf-8"), manifest.read_text("utf-8")) == ("{}\n", text)
    prepare(recipe, overwrite=True)
