"""`python -m chat.summarize`: what it prints, what it refuses, and the exit codes."""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chat.summarize import main
from data_prep.errors import UserError, run_cli
from data_prep.recipe import Recipe
from eval.generate import Summarizer
from tests.chat.exports import FOLDER
from tests.chat.tiny import tiny_recipe
from tests.conftest import command, derived_recipe

BASE = ("--model", "base")
ROWS = [
    {"id": f"r{n}", "dialogue": f"Ola: is bus {n} late?\nPiet: yes, {'very ' * n}"}
    for n in range(9)
]
Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Recipe:
    return tiny_recipe(tmp_path_factory.mktemp("summarize"), tiny_smollm2)


@pytest.fixture
def run(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process: exit code, lines of stdout, our lines of stderr."""

    def call(*args: object, stdin: bytes = b"") -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["chat.summarize", str(recipe.path), *map(str, args)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code: Any = 0
        try:
            run_cli(main)
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        said = [line for line in err.splitlines() if line.startswith(("error:", "note:"))]
        assert "Traceback" not in err
        return code, out.splitlines(), said

    return call


def test_an_argument_gives_its_summary_alone(run: Run) -> None:
    code, out, said = run("Ana: hi\\nBo: yes", *BASE)
    assert (code, len(out), said) == (0, 1, [])
    assert run("-", *BASE, stdin=b"Ana: hi\nBo: yes\n")[1] == out
    assert run(*BASE, stdin=b"Ana: hi\nBo: yes")[1] == out


def test_the_tuned_model_is_the_default(run: Run) -> None:
    tuned, base = run("Ana: hi\nBo: yes"), run("Ana: hi\nBo: yes", *BASE)
    assert tuned[0] == base[0] == 0 and tuned[1] != base[1]
    assert run("Ana: hi\nBo: yes", "--model", "tuned")[1] == tuned[1]


def test_without_an_adapter_it_says_how_to_go_on(run: Run, recipe: Recipe) -> None:
    folder = recipe.output_dir.rename(recipe.output_dir.with_name("aside"))
    try:
        code, out, said = run("Ana: hi\nBo: yes")
    finally:
        folder.rename(recipe.output_dir)
    assert (code, out) == (2, []) and len(said) == 1
    assert "no trained adapter there" in said[0] and "`--model base` of chat.summarize" in said[0]


def test_rows_come_in_their_order_whatever_their_batch(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    code, out, said = run(path, "--json")
    records = [json.loads(line) for line in out]
    assert (code, said) == (0, [])
    assert [record["id"] for record in records] == [row["id"] for row in ROWS]
    alone = json.loads(run(ROWS[4]["dialogue"], "--json")[1][0])
    assert alone["summary"] == records[4]["summary"] and len({r["summary"] for r in records}) > 1
    assert records[4]["speakers"] == ["Ola", "Piet"] and records[4]["messages"] == 2
    assert records[4]["start"] is None and type(records[4]["stopped"]) is bool


def test_bad_dialogues_among_good_ones(run: Run) -> None:
    code, out, said = run(FOLDER / "rows.jsonl", FOLDER / "whatsapp_ambiguous.txt", *BASE)
    assert code == 1
    assert [line.split(":")[0] for line in out] == ["r1", "3", "whatsapp_ambiguous"]
    assert len(said) == 7 and sum(line.startswith("note: ") for line in said) == 1
    assert said[0].startswith(f"error: {FOLDER}/rows.jsonl:2: has no field `dialogue`")


def test_memory_that_runs_out_on_one_leaves_the_others(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Summarizer.plan

    def small_machine(self: Summarizer, rows: list[Any]) -> None:
        if any("bus 0" in row["messages"][0]["content"] for row in rows):
            raise UserError("recipe.yml: memory runs out on a single dialogue of 90 tokens")
        plain(self, rows)

    monkeypatch.setattr(Summarizer, "plan", small_machine)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    code, out, said = run(path, "--json", *BASE)
    made = [json.loads(line)["id"] for line in out]
    assert code == 1 and made and made == [row["id"] for row in ROWS][-len(made) :]
    assert [line.split(": ")[2] for line in said] == [
        "memory runs out on a single dialogue of 90 tokens"
    ]


@pytest.mark.parametrize(("args", "error"), [
    (["/nowhere.txt"], "/nowhere.txt: not found"),
    ([str(FOLDER / "prose.txt")], "prose.txt: no line is a turn of a dialogue"),
    (["Ana: hi", "--gap-hours", "0"], "--gap-hours: 0 is no length of a silence; use 6"),
    (["Ana: hi", "--gap-hours", "nan"], "--gap-hours: nan is no length"),
    (["Ana: hi", "--gap-hours", "inf"], "--gap-hours: inf is no length"),
    ([], "standard input: is empty"),
])  # fmt: skip
def test_nothing_to_summarise_is_exit_code_2(run: Run, args: list[str], error: str) -> None:
    code, out, said = run(*args, *BASE)
    assert (code, out) == (2, []) and len(said) == 1 and error in said[0]


def test_parts_at_gaps_and_a_summary_over_them(run: Run) -> None:
    export = FOLDER / "whatsapp_by_order.txt"
    code, out, _ = run(export, *BASE, "--json")
    (record,) = [json.loads(line) for line in out]
    assert code == 0 and record["name"] == "whatsapp_by_order"
    assert (record["start"], record["end"]) == ("2021-01-05T18:00:00", "2021-02-01T08:00:00")
    times = [(part["messages"], part["start"], part["end"]) for part in record["parts"]]
    assert times == [
        (1, "2021-01-05T18:00:00", "2021-01-05T18:00:00"),
        (1, "2021-01-06T18:05:00", "2021-01-06T18:05:00"),
        (1, "2021-02-01T08:00:00", "2021-02-01T08:00:00"),
    ]
    longer = json.loads(run(export, *BASE, "--json", "--gap-hours", "48")[1][0])
    assert [part["messages"] for part in longer["parts"]] == [2, 1]


def test_parts_in_text_stand_under_the_whole(run: Run) -> None:
    _, out, _ = run(FOLDER / "whatsapp_by_order.txt", *BASE)
    assert out[0].startswith("whatsapp_by_order: ") and len(out) == 4
    assert out[1].startswith("  2021-01-05 18:00 to 2021-01-05 18:00, 1 message: ")


def test_a_reader_that_has_seen_enough(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `python -m chat.summarize ... | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert run("Ana: hi", *BASE)[0] == 0


def test_anonymize(run: Run) -> None:
    code, out, _ = run(FOLDER / "telegram", *BASE, "--json", "--anonymize")
    record = json.loads(out[0])
    assert code == 0 and record["name"] == "chat 1"
    assert record["speakers"] == ["Person 1", "Person 2", "Person 3"]
    assert not [name for name in ("Marta", "Ivo", "Kern") if name in out[0]]


@pytest.mark.slow
def test_command_line_with_the_real_base_model(smollm2: Path, tmp_path: Path) -> None:
    path = derived_recipe(
        "smollm2_samsum", tmp_path, "real", base_model=str(smollm2),
        summarization__decoding={"max_new_tokens": 24, "dtype": "float32"},
    )  # fmt: skip
    done = command(
        sys.executable, "-m", "chat.summarize", path, FOLDER / "whatsapp_android_us.txt",
        FOLDER / "prose.txt", FOLDER / "slack", *BASE, "--json",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-2000:]
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["name"] for record in records] == [
        "whatsapp_android_us", "nora, Sam Okoye", "#general",
    ]  # fmt: skip
    assert [len(record["parts"]) for record in records] == [2, 1, 2]
    assert all(len(record["summary"].split()) > 3 for record in records)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "prose.txt: no line is a turn" in errors[0]
    assert "Traceback" not in done.stderr
