"""Prediction files: resume, order, keys, shards of several processes, and damage."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from data_prep.prompt import to_row
from eval.predictions import Work, difference, generate_file, made, recorded_key

INSTRUCTION = "Sum up:\n{dialogue}"
ROWS = [to_row(str(n), f"Ann: {n}", f"Ann says {n}.", INSTRUCTION) for n in range(6)]
BATCHES = [[5, 4], [3, 2], [1, 0]]
KEY = {"model": "base", "decoding": {"max_new_tokens": 8, "dtype": "float32"}}


class Interrupted(Exception):
    """What a test raises in the middle of generation."""


class Processes:
    """What accelerate tells a process of itself, without the others to wait for."""

    def __init__(self, process_index: int = 0, num_processes: int = 1, barrier: Any = None):
        self.process_index, self.num_processes, self.barrier = process_index, num_processes, barrier
        self.is_main_process = process_index == 0

    def wait_for_everyone(self) -> None:
        if self.barrier:
            self.barrier.wait(30)


def work(calls: list[int], fail_at: int | None = None, processes: Processes | None = None) -> Work:
    """Answer every batch at once; note which were asked for."""

    def summarize(number: int) -> list[dict[str, Any]]:
        if number == fail_at:
            raise Interrupted
        calls.append(number)
        ids = [ROWS[row]["id"] for row in BATCHES[number]]
        return [{"id": i, "prediction": f"says {i}", "tokens": 2, "stopped": True} for i in ids]

    return Work(ROWS, INSTRUCTION, BATCHES, summarize, processes or Processes())


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*"))


def test_interrupted_generation_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole/predictions.base.jsonl", tmp_path / "predictions.base.jsonl"
    whole.parent.mkdir()
    generate_file(whole, KEY, work([]))
    with pytest.raises(Interrupted):
        generate_file(path, KEY, work([], fail_at=2))
    assert not path.exists() and hidden(tmp_path) == [".predictions.base.0.partial.jsonl"]
    with (tmp_path / ".predictions.base.0.partial.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"batch": 2, "seconds": 1, "rows": [{"id"')  # a line cut in the middle
    calls: list[int] = []
    generate_file(path, KEY, work(calls))
    assert calls == [2]
    assert path.read_bytes() == whole.read_bytes()
    assert hidden(tmp_path) == [".predictions.base.key.json"]
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    assert rows[3] == {
        "id": "3", "dialogue": "Ann: 3", "reference": "Ann says 3.",
        "prediction": "says 3", "tokens": 2, "stopped": True,
    }  # fmt: skip


@pytest.mark.parametrize("finished", [False, True])
def test_another_key_starts_anew_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: bool
) -> None:
    path = tmp_path / "predictions.base.jsonl"
    if finished:
        generate_file(path, KEY, work([]))
    else:
        with pytest.raises(Interrupted):
            generate_file(path, KEY, work([], fail_at=1))
    other = {**KEY, "decoding": {"max_new_tokens": 9, "dtype": "float32"}}
    assert made(path, other) is None
    calls: list[int] = []
    generate_file(path, other, work(calls))
    assert calls == [0, 1, 2]
    assert "made anew: decoding.max_new_tokens changed" in capsys.readouterr().out
    assert made(path, other) and made(path, KEY) is None


def test_key_differences_are_named() -> None:
    assert difference(KEY, {**KEY, "model": "tuned"}) == "model changed"
    assert difference({**KEY, "data": "a"}, {"model": "base"}) == "data, decoding changed"
    assert difference("an old hash", KEY) == "its key is damaged"


def _in_process(rank: int, path: Path, barrier: Any) -> None:
    generate_file(path, KEY, work([], processes=Processes(rank, 2, barrier)))


def test_two_processes_write_shards_that_merge_into_the_same_bytes(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole/predictions.base.jsonl", tmp_path / "predictions.base.jsonl"
    whole.parent.mkdir()
    generate_file(whole, KEY, work([]))
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    ranks = [context.Process(target=_in_process, args=(n, path, barrier)) for n in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert path.read_bytes() == whole.read_bytes()
    assert hidden(tmp_path) == [".predictions.base.key.json"]


def test_one_process_goes_on_from_the_shards_of_two(tmp_path: Path) -> None:
    path = tmp_path / "predictions.base.jsonl"
    with pytest.raises(Interrupted):  # the first of two was to make batches 0 and 2
        generate_file(path, KEY, work([], fail_at=2, processes=Processes(0, 2)))
    second: list[int] = []  # the second comes later: of 1 and 2, which are left, it makes 2
    generate_file(path, KEY, work(second, processes=Processes(1, 2)))
    assert second == [2] and not path.exists() and len(hidden(tmp_path)) == 2
    calls: list[int] = []
    generate_file(path, KEY, work(calls))
    assert calls == [1]
    assert hidden(tmp_path) == [".predictions.base.key.json"]


def test_two_evaluations_do_not_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.base.jsonl"
    inner = work([])

    def meanwhile(number: int) -> list[dict[str, Any]]:
        with pytest.raises(UserError, match="another evaluation writes it"):
            generate_file(path, KEY, work([]))
        return inner.summarize(number)

    generate_file(path, KEY, inner._replace(summarize=meanwhile))
    assert len(path.read_text("utf-8").splitlines()) == len(ROWS)


def test_a_finished_file_that_was_cut_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "predictions.base.jsonl"
    generate_file(path, KEY, work([]))
    cut = path.read_bytes()[:-20]
    path.write_bytes(cut)
    with pytest.raises(UserError, match="was changed or cut short since it was made"):
        made(path, KEY)
    assert path.read_bytes() == cut and recorded_key(path) is None
