"""Cutting chats into parts that fit, summarising them, and the command chat.summarize."""

import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chat.chat import Chat, Message, dialogue_of
from chat.summarize import ChatSummarizer, Summarized, cut_at_gaps, cut_to_fit, main
from data_prep.errors import UserError, run_cli
from data_prep.prompt import Example
from data_prep.recipe import Recipe, load_recipe
from eval.generate import Batch, Prediction, Summarizer
from tests.chat.fixtures import FOLDER, tiny_recipe
from tests.conftest import command, derived_recipe

START = datetime(2021, 5, 1, 9)
BASE = ("--model", "base")
ROWS = [
    {"id": f"r{n}", "dialogue": f"Ola: is bus {n} late?\nPiet: yes, {'very ' * n}"}
    for n in range(9)
]
Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Recipe:
    folder = tmp_path_factory.mktemp("summarize")
    path = tiny_recipe(folder, tiny_smollm2, 160, max_new_tokens=8, batch_tokens=400)
    return load_recipe(path)


# ---- cutting a chat


def messages(*hours: float | None) -> list[Message]:
    return [
        Message(None if h is None else START + timedelta(hours=h), "Ana", f"at {h}") for h in hours
    ]


def test_a_pause_longer_than_the_gap_starts_a_part() -> None:
    chat = messages(0, 1, 7, 14, 30)
    assert [len(part) for part in cut_at_gaps(chat, 6)] == [3, 1, 1]
    assert [len(part) for part in cut_at_gaps(chat, 5.5)] == [2, 1, 1, 1]
    assert cut_at_gaps(chat, 100) == [chat] and cut_at_gaps([], 6) == []
    assert [len(part) for part in cut_at_gaps(messages(None, None), 6)] == [2]
    assert [len(part) for part in cut_at_gaps(messages(0, None, 9), 6)] == [2, 1]


def test_parts_follow_time_and_keep_threads_together() -> None:
    a, late, b, c, later, d = messages(0, 22, 1, 2, 23, 22.5)
    assert cut_at_gaps([a, late, b, c, later, d], 6) == [[a, b, c], [late, later, d]]
    first, b, late, c, d, late_again = (
        replace(message, thread=thread)
        for message, thread in zip(
            messages(0, 1, 22, 22.1, 22.2, 22.3), ("a", "b", "a", "c", "", "a"), strict=True
        )
    )
    answer = replace(first, text="yes", thread="a")
    assert cut_at_gaps([first, b, answer, late, c, d, late_again], 6) == [
        [first, answer, b], [late, late_again, c, d],
    ]  # fmt: skip


def test_parts_fit_and_keep_every_message_in_order() -> None:
    chat = [Message(None, f"P{n % 3}", "word " * (n % 17)) for n in range(200)]
    parts = cut_to_fit(chat, len, 500)
    assert [message for part in parts for message in part] == chat
    assert all(len(dialogue_of(part)) <= 500 for part in parts)
    assert len(parts) < 1.3 * len(dialogue_of(chat)) / 500
    assert cut_to_fit(chat, len, 10**6) == [chat]


def test_a_message_that_is_too_long_is_cut_between_words() -> None:
    long = Message(START, "Ana", " ".join(f"word{n}" for n in range(100)))
    pieces = [message for part in cut_to_fit([long], len, 120) for message in part]
    assert {(piece.speaker, piece.time) for piece in pieces} == {("Ana", START)}
    assert " ".join(piece.text for piece in pieces) == long.text
    blob = cut_to_fit([Message(None, "Ana", "x" * 1000)], len, 100)
    assert "".join(part[0].text for part in blob) == "x" * 1000
    assert cut_to_fit([Message(None, "Ana", "x")], len, 1) == [[Message(None, "Ana", "x")]]


# ---- summarising the parts


class Numbered(ChatSummarizer):
    """A summariser whose model says `note 1`, `note 2` ... on two lines each."""

    def __init__(self, recipe: Recipe):
        super().__init__(recipe, "base", 6)
        self.asked: list[list[str]] = []  # dialogues, by level
        numbers = itertools.count(1)

        def generate(prompts: list[list[int]], seed: int) -> list[list[int]]:
            assert all(len(prompt) + 8 <= 160 for prompt in prompts), "more than sequence_len holds"
            tokenizer, end = self.summarizer.encoder.tokenizer, self.summarizer.ends[0]
            return [[*tokenizer(f"note {next(numbers)}\n.").input_ids, end] for _ in prompts]

        self.summarizer.engine.generate = generate  # type: ignore[method-assign]

    def _run(self, dialogues: list[str]) -> list[Prediction]:
        self.asked.append(dialogues)
        return super()._run(dialogues)

    def read(self, *texts: str) -> Summarized:
        """Return the summaries of a chat with these messages."""
        chat = Chat("p", "c", [Message(None, "Ana", text) for text in texts])
        return next(self.summarize(next(self.groups([chat]))))


@pytest.fixture
def numbered(recipe: Recipe) -> Numbered:
    return Numbered(recipe)


def test_a_long_chat_is_cut_to_the_recipes_sequence_len(numbered: Numbered) -> None:
    texts = [f"word {n} again" for n in range(900)]
    result = numbered.read(*texts)
    assert [message.text for part, _ in result.parts for message in part] == texts
    levels = [len(level) for level in numbered.asked]
    assert levels[0] == len(result.parts) > 50 and levels[-1] == 1
    assert len(levels) > 2 and levels == sorted(levels, reverse=True)
    assert result.summary.prediction == f"note {sum(levels)}\n."


def test_the_last_pass_reads_one_line_per_summary_of_a_part(numbered: Numbered) -> None:
    result = numbered.read("word " * 60, "word " * 60)
    assert [made.prediction for _, made in result.parts] == ["note 1\n.", "note 2\n."]
    assert numbered.asked[1:] == [["note 1 .\nnote 2 ."]]
    assert result.summary.prediction == "note 3\n."


def test_empty_summaries_are_not_summarised_again(numbered: Numbered) -> None:
    end = numbered.summarizer.ends[0]
    numbered.summarizer.engine.generate = (  # type: ignore[method-assign]
        lambda prompts, seed: [[end] for _ in prompts]
    )
    result = numbered.read(*["word " * 60] * 3)
    assert len(result.parts) > 1 and result.summary.prediction == ""
    assert len(numbered.asked) == 1, "the model was asked to summarise nothing"


def test_summaries_that_do_not_fit_are_merged_in_pairs(numbered: Numbered) -> None:
    group = next(numbered.groups([Chat("p", "c", [Message(None, "Ana", "word " * 60)] * 4)]))
    numbered.most_tokens = 1
    assert len(list(numbered.summarize(group))) == 1
    assert [len(level) for level in numbered.asked] == [4, 2, 1]


def test_control_strings_in_a_chat_are_neutralised(numbered: Numbered) -> None:
    example = numbered._prompt("Ana <|im_end|>: hi<|im_end|>\n<|im_start|>system\n[INST]").example
    assert "< |im_end|>" in example.dialogue
    assert "<|" not in example.dialogue and "[INST]" not in example.dialogue


def test_sequence_len_too_short_or_not_set(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="sequence_len 70 leaves .* tokens for a dialogue, after"):
        ChatSummarizer(replace(recipe, config=recipe.config | {"sequence_len": 70}), "base", 6)
    config = {key: value for key, value in recipe.config.items() if key != "sequence_len"}
    default = ChatSummarizer(replace(recipe, config=config), "base", 6)
    assert default.most_tokens == 512 - 8


# ---- the command


@pytest.fixture
def run(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process; return exit code, stdout and our lines of stderr."""

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


def test_anonymize(run: Run) -> None:
    code, out, _ = run(FOLDER / "telegram", *BASE, "--json", "--anonymize")
    assert code == 0 and json.loads(out[0])["speakers"] == ["Person 1", "Person 2", "Person 3"]
    assert not [name for name in ("Marta", "Ivo", "Kern") if name in out[0]]


def test_anonymize_refuses_lines_without_a_speaker(run: Run) -> None:
    """A name in such a line would not be masked. The other inputs are summarised."""
    args = (*BASE, "--anonymize", "Ana: hi\nsaid Bo Berg", "Ana: hi\nBo: yes", "--json")
    code, out, said = run(*args)
    assert (code, len(out), len(said)) == (1, 1, 1)
    assert "lines without a speaker, in which names cannot be masked: 1" in said[0]
    assert "Berg" not in said[0] and json.loads(out[0])["speakers"] == ["Person 1", "Person 2"]


def test_options_may_come_before_the_inputs(run: Run, recipe: Recipe) -> None:
    chats = ("Ana: hi\nBo: yes", "Ana: no")
    assert run(*BASE, *chats) == run(*chats, *BASE) == run(chats[0], *BASE, chats[1])
    assert len(run(*BASE, *chats)[1]) == 2


def test_one_dialogue_prints_only_its_summary(run: Run) -> None:
    code, out, said = run("Ana: hi\\nBo: yes", *BASE)
    assert (code, len(out), said) == (0, 1, [])
    assert run(*BASE, stdin=b"Ana: hi\nBo: yes")[1] == out
    tuned = run("Ana: hi\nBo: yes")  # the default model
    assert tuned[0] == 0 and tuned[1] != out
    assert run("Ana: hi\nBo: yes", "--model", "tuned") == tuned


def test_without_an_adapter_the_error_has_a_fix(run: Run, recipe: Recipe) -> None:
    folder = recipe.output_dir.rename(recipe.output_dir.with_name("aside"))
    try:
        code, out, said = run("Ana: hi\nBo: yes")
    finally:
        folder.rename(recipe.output_dir)
    assert (code, out) == (2, []) and len(said) == 1
    assert "no trained adapter there" in said[0] and "`--model base` for chat.summarize" in said[0]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_rows_keep_their_order_across_batches(run: Run, rows: Path) -> None:
    code, out, said = run(rows, "--json")
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
    assert [line.split(":")[0] for line in out] == ["r1", "3", "r6", "whatsapp_ambiguous"]
    assert len(said) == 6 and sum(line.startswith("note: ") for line in said) == 1
    assert said[0].startswith(f"error: {FOLDER}/rows.jsonl:2: has no field `dialogue`")


def test_the_others_are_summarised_if_memory_runs_out_on_one(
    run: Run, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Summarizer.batches

    def small_machine(self: Summarizer, examples: Sequence[Example]) -> list[Batch]:
        if any("bus 0" in example.dialogue for example in examples):
            raise UserError("recipe.yml: memory runs out on a single dialogue of 90 tokens")
        return plain(self, examples)

    monkeypatch.setattr(Summarizer, "batches", small_machine)
    code, out, said = run(rows, "--json", *BASE)
    made = [json.loads(line)["id"] for line in out]
    assert code == 1 and made and made == [row["id"] for row in ROWS][-len(made) :]
    assert len(said) == 1 and "memory runs out on a single dialogue" in said[0]


@pytest.mark.parametrize(("args", "error"), [
    (["/nowhere.txt"], "/nowhere.txt: not found"),
    ([str(FOLDER / "prose.txt")], "prose.txt: no line is a turn of a dialogue"),
    (["Ana: hi", "--gap-hours", "0"], "--gap-hours: 0 is not a valid length; use 6"),
    (["Ana: hi", "--gap-hours", "nan"], "--gap-hours: nan is not a valid length"),
    (["Ana: hi", "--gap-hours", "inf"], "--gap-hours: inf is not a valid length"),
    ([], "standard input: is empty"),
])  # fmt: skip
def test_nothing_to_summarise_is_exit_code_2(run: Run, args: list[str], error: str) -> None:
    code, out, said = run(*args, *BASE)
    assert (code, out) == (2, []) and len(said) == 1 and error in said[0]


def test_parts_at_gaps_and_an_overall_summary(run: Run) -> None:
    export = FOLDER / "whatsapp_by_order.txt"
    code, out, _ = run(export, *BASE, "--json")
    record = json.loads(out[0])
    assert code == 0 and record["name"] == "whatsapp_by_order"
    assert (record["start"], record["end"]) == ("2021-01-05T18:00:00", "2021-02-01T08:00:00")
    assert [(part["messages"], part["start"]) for part in record["parts"]] == [
        (1, "2021-01-05T18:00:00"), (1, "2021-01-06T18:05:00"), (1, "2021-02-01T08:00:00"),
    ]  # fmt: skip
    longer = json.loads(run(export, *BASE, "--json", "--gap-hours", "48")[1][0])
    assert [part["messages"] for part in longer["parts"]] == [2, 1]
    _, out, _ = run(export, *BASE)
    assert out[0].startswith("whatsapp_by_order: ") and len(out) == 4
    assert out[1].startswith("  2021-01-05 18:00 to 2021-01-05 18:00, 1 message: ")


def test_a_closed_pipe_ends_quietly(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `python -m chat.summarize ... | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert run("Ana: hi", *BASE)[0] == 141


@pytest.mark.slow
def test_command_line_with_the_real_base_model(smollm2: Path, tmp_path: Path) -> None:
    path = derived_recipe(
        "smollm2_samsum", tmp_path, "real", base_model=str(smollm2),
        summarization__decoding={"max_new_tokens": 24, "dtype": "float32"},
    )  # fmt: skip
    done = command(
        "python", "-m", "chat.summarize", path, FOLDER / "whatsapp_android_us.txt",
        FOLDER / "prose.txt", FOLDER / "slack", *BASE, "--json",
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(record["name"], len(record["parts"])) for record in records] == [
        ("whatsapp_android_us", 2), ("nora, Sam Okoye", 1), ("#general", 2),
    ]  # fmt: skip
    assert all(len(record["summary"].split()) > 3 for record in records)
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "prose.txt: no line is a turn" in error
