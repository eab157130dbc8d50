"""Prediction files: resume, order, keys, shards of several processes, and damage."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from data_prep.prompt import Example
from data_prep.settings import Decoding
from eval.generate import Batch, Prediction
from eval.predictions import difference, finished_record, generate_file, matching_record
from eval.signature import GenerationKey

INSTRUCTION = "Sum up:\n{dialogue}"
ROWS = [Example.build(str(n), f"Ann: {n}", f"Ann says {n}.", INSTRUCTION) for n in range(6)]
BATCHES = [Batch(n, [ROWS[5 - 2 * n], ROWS[4 - 2 * n]], [[0], [0]]) for n in range(3)]
KEY = GenerationKey(
    model="base", base_model="b", base_model_hash="h", adapter_hash=None, prompt_hash="p",
    decoding=Decoding(max_new_tokens=8, dtype="float32"), data="d",
)  # fmt: skip


class Interrupted(Exception):
    """Raised by a test in the middle of generation."""


class Processes:
    """Stand-in for accelerate's process state; waits for others only if given a barrier."""

    def __init__(self, process_index: int = 0, num_processes: int = 1, barrier: Any = None):
        self.process_index, self.num_processes, self.barrier = process_index, num_processes, barrier
        self.is_main_process = process_index == 0

    def wait_for_everyone(self) -> None:
        if self.barrier:
            self.barrier.wait(30)


def summaries(batch: Batch) -> list[Prediction]:
    return [
        Prediction(
            id=example.id, dialogue=example.dialogue, reference=example.summary,
            prediction=f"says {example.id}", tokens=2, stopped=True,
        )
        for example in batch.examples
    ]  # fmt: skip


def generate(
    path: Path,
    key: GenerationKey = KEY,
    fail_at: int | None = None,
    processes: Processes | None = None,
) -> list[int]:
    """Write the file, or raise Interrupted at batch `fail_at`; return the generated batches."""
    calls: list[int] = []

    def summarize(batch: Batch) -> list[Prediction]:
        if batch.number == fail_at:
            raise Interrupted
        calls.append(batch.number)
        return summaries(batch)

    generate_file(path, key, ROWS, BATCHES, summarize, processes or Processes())
    return calls


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*"))


def test_interrupted_generation_resumes_and_writes_the_same_bytes(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole/predictions.base.jsonl", tmp_path / "predictions.base.jsonl"
    whole.parent.mkdir()
    generate(whole)
    with pytest.raises(Interrupted):
        generate(path, fail_at=2)
    assert not path.exists() and ".predictions.base.0.partial.jsonl" in hidden(tmp_path)
    with (tmp_path / ".predictions.base.0.partial.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"batch": 2, "seconds": 1, "predictions": [{"id"')  # a truncated line
    assert generate(path) == [2]
    assert path.read_bytes() == whole.read_bytes()
    assert hidden(tmp_path) == [".predictions.base.key.json"]
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == [example.id for example in ROWS]
    assert rows[3] == {
        "id": "3", "dialogue": "Ann: 3", "reference": "Ann says 3.",
        "prediction": "says 3", "tokens": 2, "stopped": True,
    }  # fmt: skip


@pytest.mark.parametrize("finished", [False, True])
def test_a_different_key_starts_over_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: bool
) -> None:
    path = tmp_path / "predictions.base.jsonl"
    if finished:
        generate(path)
    else:
        with pytest.raises(Interrupted):
            generate(path, fail_at=1)
    other = KEY.model_copy(update={"decoding": Decoding(max_new_tokens=9, dtype="float32")})
    assert finished_record(path, other) is None
    assert generate(path, other) == [0, 1, 2]
    assert "generated again: decoding.max_new_tokens changed" in capsys.readouterr().out
    assert finished_record(path, other) and finished_record(path, KEY) is None


def test_key_differences_are_named() -> None:
    assert difference(KEY, KEY.model_copy(update={"model": "tuned"})) == "model changed"
    changes = {"data": "a", "decoding": Decoding(engine="vllm", max_new_tokens=8, dtype="float32")}
    assert difference(KEY, KEY.model_copy(update=changes)) == "data, decoding.engine changed"


def test_a_key_from_another_version_of_the_project_still_matches(tmp_path: Path) -> None:
    """Old keys lack fields that are None, and settings that were added later."""
    path = tmp_path / "predictions.base.jsonl"
    generate(path)
    file = tmp_path / ".predictions.base.key.json"
    record = json.loads(file.read_text("utf-8"))
    del record["key"]["quantized"], record["key"]["decoding"]["min_new_tokens"]
    file.write_text(json.dumps(record), "utf-8")
    assert finished_record(path, KEY)


def _in_process(rank: int, path: Path, barrier: Any) -> None:
    generate(path, processes=Processes(rank, 2, barrier))


def test_two_processes_write_shards_that_merge_into_the_same_bytes(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole/predictions.base.jsonl", tmp_path / "predictions.base.jsonl"
    whole.parent.mkdir()
    generate(whole)
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


def test_one_process_resumes_from_the_shards_of_two(tmp_path: Path) -> None:
    path = tmp_path / "predictions.base.jsonl"
    with pytest.raises(Interrupted):  # the first of two processes has batches 0 and 2
        generate(path, fail_at=2, processes=Processes(0, 2))
    # the second starts later: of the missing batches 1 and 2 it generates 2
    assert generate(path, processes=Processes(1, 2)) == [2]
    assert not path.exists() and len(list(tmp_path.glob(".*.partial.jsonl"))) == 2
    assert generate(path) == [1]
    assert hidden(tmp_path) == [".predictions.base.key.json"]


def test_two_evaluations_do_not_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.base.jsonl"

    def meanwhile(batch: Batch) -> list[Prediction]:
        with pytest.raises(UserError, match="another evaluation uses it"):
            generate(path)
        return summaries(batch)

    generate_file(path, KEY, ROWS, BATCHES, meanwhile, Processes())
    assert len(path.read_text("utf-8").splitlines()) == len(ROWS)


def test_a_truncated_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "predictions.base.jsonl"
    generate(path)
    cut = path.read_bytes()[:-20]
    path.write_bytes(cut)
    with pytest.raises(UserError, match="changed or cut short"):
        finished_record(path, KEY)
    assert path.read_bytes() == cut and matching_record(path) is None
