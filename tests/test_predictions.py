"""Prediction files and the report: resume, order, and corpus text that stays text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from data_prep.prompt import to_row
from eval.predictions import Summarize, generate_file, seconds_if_made
from eval.report import report, table
from eval.rouge import METRICS

INSTRUCTION = "Sum up:\n{dialogue}"
ROWS = [to_row(str(n), f"Ann: {n}", f"Ann says {n}.", INSTRUCTION) for n in range(6)]


class Interrupted(Exception):
    """What a test raises in the middle of generation."""


def summarize(calls: list[str], fail_at: str | None = None) -> Summarize:
    """Answer two rows at a time, last row first; note the ids asked for."""

    def run(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        rows = rows[::-1]
        for start in range(0, len(rows), 2):
            batch = [row["id"] for row in rows[start : start + 2]]
            if fail_at in batch:
                raise Interrupted
            calls.extend(batch)
            yield [
                {"id": i, "prediction": f"says {i}", "tokens": 2, "stopped": True} for i in batch
            ]

    return run


def test_interrupted_generation_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole/predictions.base.jsonl", tmp_path / "predictions.base.jsonl"
    whole.parent.mkdir()
    generate_file(whole, "key", ROWS, INSTRUCTION, summarize([]))
    first: list[str] = []
    with pytest.raises(Interrupted):
        generate_file(path, "key", ROWS, INSTRUCTION, summarize(first, fail_at="1"))
    assert first == ["5", "4", "3", "2"] and not path.exists()
    (partial,) = tmp_path.glob(".*.partial.jsonl")
    with partial.open("a", encoding="utf-8") as file:
        file.write('{"id": "1", "predic')  # a line cut in the middle
    second: list[str] = []
    generate_file(path, "key", ROWS, INSTRUCTION, summarize(second))
    assert second == ["1", "0"]
    assert path.read_bytes() == whole.read_bytes()
    assert [p.name for p in tmp_path.glob(".*")] == [".predictions.base.key.json"]
    assert seconds_if_made(path, "key") is not None
    assert seconds_if_made(path, "other key") is None


def test_another_key_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "predictions.base.jsonl"
    with pytest.raises(Interrupted):
        generate_file(path, "key", ROWS, INSTRUCTION, summarize([], fail_at="1"))
    calls: list[str] = []
    generate_file(path, "other key", ROWS, INSTRUCTION, summarize(calls))
    assert len(calls) == len(ROWS)
    made = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [row["id"] for row in made] == [row["id"] for row in ROWS]
    assert made[3] == {
        "id": "3", "dialogue": "Ann: 3", "reference": "Ann says 3.",
        "prediction": "says 3", "tokens": 2, "stopped": True,
    }  # fmt: skip


def test_two_evaluations_do_not_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.base.jsonl"

    def meanwhile(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        with pytest.raises(UserError, match="another evaluation writes it"):
            generate_file(path, "key", ROWS, INSTRUCTION, summarize([]))
        yield from summarize([])(rows)

    generate_file(path, "key", ROWS, INSTRUCTION, meanwhile)
    assert len(path.read_text("utf-8").splitlines()) == len(ROWS)


def scores_of(**models: float) -> dict[str, Any]:
    return {
        "recipe": "r", "examples": 1, "split": "test", "metric": "m", "base_model": "b",
        "decoding": {}, "commit": "c",
        "models": {
            name: {**dict.fromkeys(METRICS, value), "mean_tokens": 9.0, "stopped": 0.5}
            for name, value in models.items()
        },
    }  # fmt: skip


def test_table_has_the_difference_where_both_models_are() -> None:
    assert "| tuned - base | +20.00 | +20.00" in table(scores_of(base=10.0, tuned=30.0))
    assert "tuned - base" not in table(scores_of(base=10.0))


def test_report_shows_corpus_text_as_text() -> None:
    row = {
        "id": "x|y", "dialogue": "Ann: ```\n# no heading", "reference": "a | b\nc",
        "prediction": "<script>alert(1)</script>",
    }  # fmt: skip
    text = report(scores_of(base=10.0), {"base": [row]})
    assert "### x\\|y" in text
    assert "````text\nAnn: ```\n# no heading\n````" in text
    assert "| reference | a \\| b c |" in text
    assert "<script>" not in text and "\\<script\\>" in text
