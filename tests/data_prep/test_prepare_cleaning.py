"""Cleaning steps: what each one changes, drops and counts."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.prepare import SplitCounts, prepare
from data_prep.prompt import read_examples
from tests.data_prep.corpora import Columns, chat, chats, manifest_of, pairs, recipe_for

# A dirty dialogue (unchanged if the step is off), and the cleaned one.
TEXT_STEPS = {
    "normalize_newlines": ("Ola: hi\r\nPiet: yo\rOla: ok", "Ola: hi\nPiet: yo\nOla: ok"),
    "strip_trailing_blanks": ("Ola: hi  \n  Piet: yo\t\n\n", "Ola: hi\n  Piet: yo"),
}


@pytest.mark.parametrize("step", TEXT_STEPS)
def test_text_steps_are_counted_and_switchable(tmp_path: Path, step: str) -> None:
    dirty, clean = TEXT_STEPS[step]
    corpus = chats()
    corpus["train"][2]["dialogue"] = dirty
    on = recipe_for(tmp_path, corpus)
    assert prepare(on).changed[step] == 1
    assert pairs(on)[2][0] == clean
    off = recipe_for(tmp_path, corpus, cleaning={step: False})
    assert prepare(off).changed.get(step, 0) == 0
    assert pairs(off)[2][0] == dirty


def copied(train: list[Columns], of: Columns, **changes: Any) -> None:
    train.append({**of, "id": "dirty", **changes})


# The step, a function that adds a dirty training row, and the reason for dropping that row.
DROP_STEPS: dict[str, tuple[str, Callable[[dict[str, list[Columns]]], None], str]] = {
    "empty dialogue": (
        "drop_empty", lambda c: copied(c["train"], chat(99), dialogue=" \r\n\t"), "empty dialogue"),
    "null dialogue": (
        "drop_empty", lambda c: copied(c["train"], chat(99), dialogue=None), "empty dialogue"),
    "empty summary": (
        "drop_empty", lambda c: copied(c["train"], chat(99), summary=""), "empty summary"),
    "null summary": (
        "drop_empty", lambda c: copied(c["train"], chat(99), summary=None), "empty summary"),
    "duplicate": (
        "drop_duplicates", lambda c: copied(c["train"], c["train"][0]), "exact duplicate"),
    "duplicate once cleaned": (
        "drop_duplicates",
        lambda c: copied(
            c["train"], c["train"][0], dialogue=c["train"][0]["dialogue"].replace("\n", " \r\n")),
        "exact duplicate"),
    "in test": (
        "decontaminate", lambda c: copied(c["train"], c["test"][0], summary="Another one."),
        "dialogue is in test"),
    "in validation": (
        "decontaminate", lambda c: copied(c["train"], c["validation"][0], summary="Another one."),
        "dialogue is in validation"),
    "in test, different white space": (
        "decontaminate",
        lambda c: copied(
            c["train"], c["test"][0], dialogue=c["test"][0]["dialogue"].replace("\n", " \n\n  ")),
        "dialogue is in test"),
}  # fmt: skip


@pytest.mark.parametrize("case", DROP_STEPS)
def test_drop_steps_are_counted_and_switchable(tmp_path: Path, case: str) -> None:
    step, dirty, reason = DROP_STEPS[case]
    corpus = chats()
    dirty(corpus)
    on = recipe_for(tmp_path, corpus)
    counts = prepare(on).counts["train"]
    assert counts == SplitCounts(read=7, written=6, dropped=Counter({reason: 1}))
    assert manifest_of(on)["dropped"] == [{"split": "train", "id": "dirty", "reason": reason}]
    assert [row.id for row in read_examples(on.data_dir / "train.jsonl")] == [
        f"r{n}" for n in range(6)
    ]
    off = recipe_for(tmp_path, corpus, cleaning={step: False})
    assert prepare(off).counts["train"] == SplitCounts(read=7, written=7)
    assert manifest_of(off)["dropped"] == []


def test_the_same_dialogue_with_another_summary_is_kept(tmp_path: Path) -> None:
    corpus = chats()
    copied(corpus["train"], corpus["train"][0], summary="Another one.")
    assert prepare(recipe_for(tmp_path, corpus)).counts["train"].written == 7


def test_evaluation_rows_are_cleaned_too(tmp_path: Path) -> None:
    corpus = chats()
    copied(corpus["test"], corpus["test"][0])
    corpus["test"].append({**corpus["test"][0], "id": "other", "summary": "Another one."})
    corpus["test"].append({"id": "void", "dialogue": None, "summary": "Nothing."})
    recipe = recipe_for(tmp_path, corpus)
    counts = prepare(recipe).counts["test"]
    assert counts.dropped == {"exact duplicate": 1, "empty dialogue": 1}
    first, second = read_examples(recipe.data_dir / "test.jsonl")
    assert [first.id, second.id] == [row["id"] for row in corpus["test"][:2]]
    assert first.references == [first.summary, "Another one."] and counts.references == 1
    assert second.references == [second.summary]


@pytest.mark.parametrize("form", ["lists", "columns", "rows"])
def test_all_summaries_of_a_dialogue_become_references(tmp_path: Path, form: str) -> None:
    """In a list, in separate columns (DialogSum's files) or rows (DialogSum on the Hub)."""
    corpus, column = chats(), ["summary"]
    for split, rows in corpus.items():
        several = [[row["summary"], f"Also {row['id']}."] for row in rows]
        if form == "lists":
            corpus[split] = [r | {"summary": texts} for r, texts in zip(rows, several, strict=True)]
        elif form == "columns":
            column = ["summary", "summary2"]
            corpus[split] = [
                r | {"summary2": texts[1]} for r, texts in zip(rows, several, strict=True)
            ]
        else:
            corpus[split] = [
                row | {"id": f"{row['id']}_{n}", "summary": text}
                for row, texts in zip(rows, several, strict=True)
                for n, text in enumerate(texts, 1)
            ]
    recipe = recipe_for(tmp_path, corpus, summary_column=column if column[1:] else "summary")
    counts = prepare(recipe).counts
    assert (counts["test"].written, counts["test"].references) == (2, 2)
    (first, _), train = (
        read_examples(recipe.data_dir / f"{split}.jsonl") for split in ("test", "train")
    )
    assert first.references == [first.summary, "Also r20000."]
    assert first.messages[1]["content"] == first.summary
    assert counts["train"].written == len(train) == 12  # one row per summary
    assert len({row.id for row in train}) == 12 and not train[0].references


@pytest.mark.parametrize("decontaminate", [True, False])
def test_overlaps_are_reported_even_if_kept(tmp_path: Path, decontaminate: bool) -> None:
    corpus = chats()
    corpus["train"] += [{**row, "id": f"t{n}"} for n, row in enumerate(corpus["test"])]
    corpus["train"] += [{**corpus["validation"][0], "id": f"v{n}"} for n in range(3)]
    corpus["validation"].append({**corpus["test"][0], "id": "both"})
    manifest = prepare(recipe_for(tmp_path, corpus, cleaning={"decontaminate": decontaminate}))
    assert manifest.overlaps == {
        "test_in_train": 2,
        "validation_in_train": 2,  # one is in test as well
        "test_in_validation": 1,
    }
