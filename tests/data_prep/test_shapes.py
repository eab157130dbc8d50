"""Corpora in the many shapes that people have: each is read, and every guess is noted."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from data_prep.errors import UserError
from data_prep.formats import SPLITS, read_file
from data_prep.prepare import check_prepared, prepare
from data_prep.recipe import Recipe, load_recipe
from data_prep.turns import Turn, as_list, as_turns
from tests.conftest import SHARED
from tests.data_prep.corpora import (
    chat,
    chats,
    encode,
    pairs,
    recipe_for,
    write_folder,
    write_recipe,
)  # fmt: skip

SPOKEN = ("Ola: is bus 0 late again?", "Piet: yes 😅 take tram 1")
CASES = SHARED.parent / "cases/data"


def rows_with(change: Callable[[dict[str, Any]], object]) -> dict[str, list[dict[str, Any]]]:
    """Return the usual corpus with every dialogue in another form."""
    corpus = chats()
    for rows in corpus.values():
        for row in rows:
            row["dialogue"] = change(row)
    return corpus


def turns_of(row: dict[str, Any]) -> list[list[str]]:
    return [line.split(": ", 1) for line in row["dialogue"].split("\n")]


def one_file(tmp_path: Path, rows: list[dict[str, Any]], ending: str, **block: Any) -> Recipe:
    path = tmp_path / f"corpus{ending}"
    path.write_bytes(encode(rows, ending))
    return load_recipe(write_recipe(tmp_path, path, block))


def refusal(recipe: Recipe) -> str:
    with pytest.raises(UserError) as caught:
        prepare(recipe)
    return str(caught.value)


@pytest.mark.parametrize(("change", "shape"), [
    (lambda row: row["dialogue"].split("\n"), "strings"),
    (turns_of, "pairs"),
    (lambda row: [{"speaker": a, "text": b} for a, b in turns_of(row)], "{speaker, text}"),
    (lambda row: [{"role": a, "content": b} for a, b in turns_of(row)], "{role, content}"),
    (lambda row: [{"from": a, "value": b} for a, b in turns_of(row)], "{from, value}"),
    (lambda row: [{"speaker": a, "utterance": b} for a, b in turns_of(row)],
     "{speaker, utterance}"),
    (lambda row: {"speaker": [a for a, _ in turns_of(row)], "text": [b for _, b in turns_of(row)]},
     "{speaker, text}"),
    (lambda row: [{"role": a, "content": [{"type": "text", "text": b}]} for a, b in turns_of(row)],
     "{role, content}"),
])  # fmt: skip
def test_a_list_of_turns_is_read_by_its_shape(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], shape: str
) -> None:
    recipe = recipe_for(tmp_path, rows_with(change), ".parquet" if shape != "pairs" else ".json")
    assert prepare(recipe).notes == [f"dialogues that are lists of {shape}: 10"]
    assert pairs(recipe)[0] == (chat(0)["dialogue"], chat(0)["summary"])


@pytest.mark.parametrize("write", [json.dumps, str])
@pytest.mark.parametrize("form", [
    lambda row: [{"Speaker": a, "Text": b} for a, b in turns_of(row)],
    lambda row: {"speaker": [a for a, _ in turns_of(row)], "text": [b for _, b in turns_of(row)]},
])  # fmt: skip
def test_lists_in_the_cells_of_a_csv_file(
    tmp_path: Path, write: Callable[[object], str], form: Callable[[dict[str, Any]], object]
) -> None:
    """Written as JSON, and as pandas writes them."""
    corpus = rows_with(lambda row: write(form(row)))
    recipe = recipe_for(tmp_path, corpus, ".csv")
    assert "lists in `dialogue` that were written as text: 10" in prepare(recipe).notes
    assert pairs(recipe)[0][0] == chat(0)["dialogue"]


def test_a_list_without_commas_is_refused(tmp_path: Path) -> None:
    """NumPy prints lists like this, and Python would join their strings into one."""
    corpus = rows_with(lambda row: "['" + "'\n '".join(row["dialogue"].split("\n")) + "']")
    message = refusal(recipe_for(tmp_path, corpus, ".csv"))
    assert "row 1: `dialogue` is a list without commas" in message and ".tolist()" in message
    assert as_list("['a', 'b' ]") == ["a", "b"]
    assert as_list("[21:15] Ida: hi") == ["[21:15] Ida: hi"]


def test_the_recipe_sets_the_keys_of_a_turn(tmp_path: Path) -> None:
    named = rows_with(lambda row: [{"w": a, "s": b} for a, b in turns_of(row)])
    recipe = recipe_for(tmp_path / "a", named)
    message = refusal(recipe)
    assert "row 1: `dialogue` is a list" in message
    assert "`summarization.turns: {speaker: ..., text: ...}`" in message
    for keys in ({"speaker": "who", "text": "s"}, {"speaker": "w", "text": "said"}):
        assert "set the keys of a turn" in refusal(recipe_for(tmp_path / "c", named, turns=keys))
    recipe = recipe_for(tmp_path / "b", named, turns={"speaker": "w", "text": "s"})
    prepare(recipe)
    assert pairs(recipe)[0][0] == chat(0)["dialogue"]


def test_speakers_in_a_parallel_column(tmp_path: Path) -> None:
    """Like MediaSum's `utt` and `speaker`."""
    corpus = rows_with(lambda row: [b for _, b in turns_of(row)])
    for row in corpus["train"] + corpus["validation"] + corpus["test"]:
        row["who"] = ["Ola", "Piet"]
    recipe = recipe_for(tmp_path / "a", corpus, turns={"speaker_column": "who"})
    prepare(recipe)
    assert pairs(recipe)[0][0] == chat(0)["dialogue"]
    corpus["train"][3]["who"] = ["Ola"]
    message = refusal(recipe_for(tmp_path / "b", corpus, turns={"speaker_column": "who"}))
    assert "row 4: `dialogue` has 2 turns and `who` 1 speakers" in message


def test_paths_inside_a_column(tmp_path: Path) -> None:
    """The files of TweetSumm and QMSum, and rows in the chat format of training data."""
    nested = {
        split: [{"dialog": {"turns": [{"is_agent": n == 1, "sentences": [b, "ok"]}
                                      for n, (_, b) in enumerate(turns_of(row))]},
                 "summaries": {"abstractive": [[row["summary"], "Yes."], ["Short."]]}}
                for row in rows]
        for split, rows in chats().items()
    }  # fmt: skip
    recipe = recipe_for(
        tmp_path / "a", nested, dialogue_column="dialog.turns",
        summary_column="summaries.abstractive",
    )  # fmt: skip
    assert prepare(recipe).counts["test"].references == 2
    dialogue, summary = pairs(recipe)[0]
    assert dialogue == "Other: is bus 0 late again? ok\nAgent: yes 😅 take tram 1 ok"
    assert summary == f"{chat(0)['summary']} Yes."
    rows = {s: [{"messages": [{"role": "user", "content": r["dialogue"]},
                              {"role": "assistant", "content": r["summary"]}]} for r in rows]
            for s, rows in chats().items()}  # fmt: skip
    message = refusal(recipe_for(tmp_path / "e", {s: [{"extra": [{}]}] for s in rows}))
    assert "has no column `dialogue` (found: extra); set" in message
    message = refusal(recipe_for(tmp_path / "b", rows))
    assert "has no column `dialogue` (found: messages)" in message
    assert "such as `messages.-1.content`" in message
    recipe = recipe_for(
        tmp_path / "c", rows, dialogue_column="messages.0.content",
        summary_column="messages.-1.content",
    )  # fmt: skip
    prepare(recipe)
    assert pairs(recipe)[0] == (chat(0)["dialogue"], chat(0)["summary"])
    with pytest.raises(UserError, match="the summary would be a part of the dialogue"):
        recipe_for(tmp_path / "d", rows, dialogue_column="messages",
                   summary_column="messages.-1.content")  # fmt: skip


def test_turns_of_unusual_lists() -> None:
    assert as_turns([{"speaker": "A", "text": " a\nb "}, None, {"speaker": "B", "text": ""}]) == [
        Turn("A", "a\nb")
    ]
    assert Turn("A", "a\nb").line() == "A: a b"
    for value in ("A: a", [1, 2], [{"x": "y"}], {"A": "a"}, {"a": ["b"], "text": ["c", "d"]}):
        assert as_turns(value) is None


@pytest.mark.parametrize("end", ["\\n", "\\r\\n", "<br>", " <BR/> ", "\u2028", "\x85"])
def test_turns_that_do_not_end_with_a_newline(tmp_path: Path, end: str) -> None:
    recipe = recipe_for(tmp_path, rows_with(lambda row: row["dialogue"].replace("\n", end)))
    (note,) = prepare(recipe).notes
    assert note.startswith("dialogues whose turns ended in") and note.endswith(": 10")
    assert pairs(recipe)[0][0] == chat(0)["dialogue"]


def test_dialogues_of_one_line_are_noted(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, rows_with(lambda row: row["dialogue"].replace("\n", " ")))
    (note,) = prepare(recipe).notes
    assert "no line break" in note and note.endswith(": 10")


def test_columns_that_seem_swapped_are_noted(tmp_path: Path) -> None:
    corpus = chats()
    for row in [row for rows in corpus.values() for row in rows]:
        row["summary"] = "They wait."
    source = write_folder(tmp_path / "corpus", corpus)
    right = prepare(load_recipe(write_recipe(tmp_path, source)))
    block: dict[str, Any] = {"dialogue_column": "summary", "summary_column": "dialogue"}
    block["cleaning"] = {"decontaminate": False}  # all these dialogues are the same
    swapped = prepare(load_recipe(write_recipe(tmp_path, source, block)))
    assert not any("swapped" in note for note in right.notes)
    assert any("not swapped: 10" in note for note in swapped.notes)


def test_column_names_in_another_case(tmp_path: Path) -> None:
    rows = [
        {"ID ": row["id"], "Dialogue": row["dialogue"], " Summary": row["summary"], "Split": split}
        for split, rows in chats().items()
        for row in rows
    ]
    recipe = one_file(tmp_path, rows, ".csv")
    manifest = prepare(recipe)
    assert {split: counts.written for split, counts in manifest.counts.items()} == {
        "train": 6, "validation": 2, "test": 2
    }  # fmt: skip
    assert "`Split` as `split`" in manifest.notes[0] and "`ID ` as `id`" in manifest.notes[0]
    both = [{**row, "SUMMARY": "x"} for row in rows]
    (tmp_path / "b").mkdir()
    message = refusal(one_file(tmp_path / "b", both, ".csv"))
    assert "` Summary` and `SUMMARY` could both be `summary`" in message


@pytest.mark.parametrize("word", ["nan", "None", "N/A", "null", "<NA>"])
def test_words_that_mean_a_missing_value(tmp_path: Path, word: str) -> None:
    corpus = chats()
    corpus["train"][2]["summary"] = word
    manifest = prepare(recipe_for(tmp_path, corpus, ".csv"))
    assert manifest.counts["train"].dropped == {"empty summary": 1}
    assert manifest.notes == [f"`summary` that is {word!r}, which counts as empty: 1"]


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_nan_in_json_is_reported(tmp_path: Path, ending: str) -> None:
    corpus = chats()
    corpus["train"][2]["score"] = float("nan")
    message = refusal(recipe_for(tmp_path, corpus, ending))
    assert f"train{ending}: cannot be read after row 2" in message and "NaN" in message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_other_unicode_encodings(tmp_path: Path, ending: str, encoding: str) -> None:
    path, text = tmp_path / f"train{ending}", encode([chat(0), chat(1)], ending).decode()
    path.write_bytes(("\ufeff" * (encoding[-1] == "e") + text).encode(encoding))
    notes: dict[str, None] = {}
    assert [row for _, row in read_file(path, path.name, notes)] == [chat(0), chat(1)]
    assert [*notes] == [f"train{ending}: is in {encoding.upper().removesuffix('-BE')}"]


def test_a_csv_file_that_declares_its_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('sep=;\nid;dialogue;summary;;\n1;"a, b";c;;\n')
    (row,) = read_file(path, path.name)
    assert row.columns == {"id": "1", "dialogue": "a, b", "summary": "c", "": ""}


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_layouts_of_json(tmp_path: Path, ending: str) -> None:
    """Each layout with each ending; an object of rows by split gives a column `split`."""
    path, rows = tmp_path / f"train{ending}", [chat(0), chat(1)]
    for text in (
        json.dumps(rows), json.dumps({"version": 1, "data": rows}),
        json.dumps({"data": rows}, indent=1), json.dumps({"data": {"items": rows}}),
        "\n".join(json.dumps(r, indent=2) for r in rows),
        "\n\n".join(map(json.dumps, rows)),
    ):  # fmt: skip
        path.write_text(text)
        assert [row for _, row in read_file(path, path.name)] == rows
    splits = {"Train": rows[:1], "dev": rows[1:], "test": []}
    for value in (splits, {"data": splits}):
        path.write_text(json.dumps(value))
        found = [row for _, row in read_file(path, path.name)]
        assert found == [{"split": "Train", **rows[0]}, {"split": "dev", **rows[1]}]
    by_columns = {key: {"0": value} for key, value in chat(0).items()}
    lists = {key: [value] * 2 for key, value in chat(0).items()}
    for table in (by_columns, {"r0": chat(0), "r1": chat(1)}, lists):
        path.write_text(json.dumps(table))
        with pytest.raises(UserError, match=re.escape('`df.to_json(path, orient="records"')):
            list(read_file(path, path.name))
    path.write_text('{"data": [{"id": 1, "id": 2}]}')
    with pytest.raises(UserError, match="two columns are named `id`"):
        list(read_file(path, path.name))


@pytest.mark.parametrize("names", [
    ("dialogsum.train.json", "dialogsum.dev.json", "dialogsum.test.json"),
    ("Training.json", "eval.json", "testing.json"),
    ("samsum_train_v2.json", "samsum-valid.json", "samsum test.json"),
    ("train/0000.json", "validation/0000.json", "test/0000.json"),
])  # fmt: skip
def test_file_names_of_the_splits(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name, split in zip(names, SPLITS, strict=True):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_bytes(encode(chats()[split], ".json"))
    (tmp_path / "corpus/train_val_test_ids.json").write_text("{}")
    recipe = load_recipe(write_recipe(tmp_path, tmp_path / "corpus"))
    manifest = prepare(recipe)
    assert [manifest.counts[s].written for s in SPLITS] == [6, 2, 2]
    assert manifest.notes == [
        "files without a split's name, which are not read: train_val_test_ids.json"
    ]
    assert "train_val_test_ids.json" not in manifest.source_files


def test_shards_numbered_from_one(tmp_path: Path) -> None:
    corpus = write_folder(tmp_path / "corpus", chats(), ".parquet")
    (corpus / "train.parquet").rename(corpus / "train-00001-of-00002.parquet")
    (corpus / "train-00002-of-00002.parquet").write_bytes(encode([chat(7)], ".parquet"))
    manifest = prepare(load_recipe(write_recipe(tmp_path, corpus)))
    assert manifest.counts["train"].written == 7


TOTALS = ["train-0000{}-of-00003.parquet", "train-0000{}-of-00003-8f8b0d.parquet"]


@pytest.mark.parametrize("name", TOTALS)
@pytest.mark.parametrize("present", [(0, 2), (1, 2), (0,)])
def test_a_missing_shard_is_refused(tmp_path: Path, name: str, present: tuple[int, ...]) -> None:
    corpus = write_folder(tmp_path / "corpus", chats(), ".parquet")
    whole = (corpus / "train.parquet").read_bytes()
    (corpus / "train.parquet").unlink()
    (corpus / "train").mkdir()
    for number in present:
        (corpus / name.format(number)).write_bytes(whole)
    message = refusal(load_recipe(write_recipe(tmp_path, corpus)))
    missing = ", ".join(str(n) for n in range(3) if n not in present)
    assert f"of the 3 parts of `train` these are missing: {missing}" in message


def test_subfolders_that_are_separate_corpora(tmp_path: Path) -> None:
    for name in ("all", "part"):
        write_folder(tmp_path / "corpus" / name, chats())
    message = refusal(load_recipe(write_recipe(tmp_path, tmp_path / "corpus")))
    assert f"set `source` to the folder {tmp_path}/corpus/all" in message
    prepare(load_recipe(write_recipe(tmp_path, tmp_path / "corpus/all")))


@pytest.mark.parametrize("whole", [True, False])
def test_folders_saved_by_datasets(tmp_path: Path, whole: bool) -> None:
    """Saved by `save_to_disk` of all splits, and of a single table."""
    tables = {split: datasets.Dataset.from_list(rows) for split, rows in chats().items()}
    saved: Any = datasets.DatasetDict(tables) if whole else tables["train"]
    saved.save_to_disk(tmp_path / "corpus")
    block = {} if whole else {"validation_rows": 1, "test_rows": 1}
    recipe = load_recipe(write_recipe(tmp_path, tmp_path / "corpus", block))
    manifest = prepare(recipe)
    expected = [6, 2, 2] if whole else [4, 1, 1]
    assert [manifest.counts[split].written for split in SPLITS] == expected
    assert any(name.endswith(".arrow") for name in manifest.source_files)


def test_a_zip_from_a_mac_with_one_file(tmp_path: Path) -> None:
    rows = [{**row, "split": split} for split, rows in chats().items() for row in rows]
    with zipfile.ZipFile(tmp_path / "corpus.zip", "w") as packed:
        packed.writestr("corpus.jsonl", encode(rows, ".jsonl"))
        packed.writestr("__MACOSX/._corpus.jsonl", b"\x00\x05\x16\x07")
    recipe = load_recipe(write_recipe(tmp_path, tmp_path / "corpus.zip"))
    assert prepare(recipe).counts["train"].written == 6


def test_configs_of_a_hub_dataset_are_listed(tmp_path: Path) -> None:
    """The list comes from `datasets`, which reads a local folder here."""
    from data_prep.sources import Source

    for part in ("news", "talk"):
        write_folder(tmp_path / "corpus" / part, {"train": chats()["train"]}, ".jsonl")
    (tmp_path / "corpus/README.md").write_text(
        "---\nconfigs:\n- config_name: news\n  data_files: news/*.jsonl\n"
        "- config_name: talk\n  data_files: talk/*.jsonl\n---\n"
    )
    with pytest.raises(UserError, match=r"`summarization.config`: 'news', 'talk'"):
        Source(str(tmp_path / "corpus"))._load_from_hub()
    source = Source(str(tmp_path / "corpus"), config="talk")
    source._load_from_hub()
    assert len(list(source.rows("train"))) == 6


def test_splits_cut_from_train(tmp_path: Path) -> None:
    """The order of rows does not matter, and the source's own split is not read."""
    corpus = chats(train=40)
    del corpus["validation"]
    message = refusal(recipe_for(tmp_path / "a", corpus))
    assert "has no split `validation`" in message
    assert "`summarization.validation_rows: 0.1`" in message
    recipe = recipe_for(tmp_path / "b", corpus, validation_rows=0.1, test_rows=3)
    manifest = prepare(recipe)
    assert [manifest.counts[split].written for split in SPLITS] == [33, 4, 3]
    assert manifest.notes == [
        "test: 3 rows cut from train by a hash of the dialogue",
        "the source's own split `test` is not read",
        "validation: 4 rows cut from train by a hash of the dialogue",
    ]
    found = {split: {*pairs(recipe, split)} for split in SPLITS}
    assert len(found["train"] | found["validation"] | found["test"]) == 40
    corpus["train"].reverse()
    again = recipe_for(tmp_path / "c", corpus, validation_rows=0.1, test_rows=3)
    prepare(again)
    assert {split: {*pairs(again, split)} for split in SPLITS} == found
    check_prepared(again)
    message = refusal(recipe_for(tmp_path / "d", corpus, validation_rows=30, test_rows=30))
    assert "test_rows and validation_rows leave no row of 40" in message
    with pytest.raises(UserError, match=r"a share below 1 such as 0\.1"):
        recipe_for(tmp_path / "e", corpus, validation_rows=1.5)


def test_dividing_rows_without_a_split_is_noted(tmp_path: Path) -> None:
    manifest = prepare(one_file(tmp_path, [chat(n) for n in range(40)], ".csv"))
    assert manifest.notes == ["rows have no column `split`; they are divided by a hash of each"]
    recipe = one_file(tmp_path, [chat(n) for n in range(8)], ".csv", validation_rows=2, test_rows=1)
    manifest = prepare(recipe)
    assert [manifest.counts[split].written for split in SPLITS] == [5, 2, 1]


def test_another_column_in_the_prompt(tmp_path: Path) -> None:
    corpus = chats()
    for number, row in enumerate(corpus["train"] + corpus["validation"] + corpus["test"]):
        row["Topic"] = f"buses {{dialogue}} </s> {number}"
    corpus["test"][1]["Topic"] = ""
    block = {"instruction": "About {topic}:\n{dialogue}"}
    recipe = recipe_for(tmp_path / "a", corpus, **block)
    manifest = prepare(recipe)
    assert manifest.neutralized["rows"] == 9 and "empty `topic` in the prompt: 1" in manifest.notes
    prompt = json.loads((recipe.data_dir / "train.jsonl").read_text().split("\n")[0])["messages"][0]
    assert prompt["content"] == (f"About buses {{dialogue}} < /s> 0:\n{chat(0)['dialogue']}")
    message = refusal(recipe_for(tmp_path / "b", corpus, instruction="{query} {dialogue}"))
    assert "has no column `query`" in message and "remove `{query}` from" in message
    with pytest.raises(UserError, match="`summary` is the summary column; it must not"):
        recipe_for(tmp_path / "c", corpus, instruction="{summary} {dialogue}")
    with pytest.raises(UserError, match="`dialogue` is the summary column"):
        recipe_for(tmp_path / "d", corpus, summary_column="dialogue")


def test_one_dialogue_with_two_questions_is_two_examples(tmp_path: Path) -> None:
    corpus = chats()
    corpus["test"] = [{**chat(20_000), "id": n, "query": n} for n in ("who", "when", "when")]
    corpus["test"][2]["id"] = "when again"
    corpus["test"][2]["summary"] = "Soon."
    for row in corpus["train"] + corpus["validation"]:
        row["query"] = "why"
    recipe = recipe_for(tmp_path, corpus, instruction="{query}? {dialogue}")
    counts = prepare(recipe).counts["test"]
    assert (counts.written, counts.references) == (2, 1)


# For each input: the recipe's keys, and its rows per split or a pattern that the error matches.
EXPECTED: dict[str, tuple[dict[str, Any], Any]] = {
    "a1_list_of_strings": ({}, (24, 8, 12)), "a2_speaker_text": ({}, (24, 8, 12)),
    "a3_mediasum_utt_speaker": (
        {"dialogue_column": "utt", "turns": {"speaker_column": "speaker"}}, (24, 8, 12)),
    "a4_role_content": ({"dialogue_column": "messages"}, (24, 8, 12)),
    "a5_sharegpt": ({"dialogue_column": "conversations.0.value",
                     "summary_column": "conversations.-1.value"}, (24, 8, 12)),
    "a5b_openai_chat": ({"dialogue_column": "messages.-2.content",
                         "summary_column": "messages.-1.content"}, (24, 8, 12)),
    "a5c_alpaca": ({"dialogue_column": "input", "summary_column": "output"}, (24, 8, 12)),
    "a6_qmsum": ({"dialogue_column": "meeting_transcripts",
                  "summary_column": "general_query_list.answer"}, (24, 8, 12)),
    "a8_summary_list": ({}, (48, 8, 12)), "b2_dialogsum_hub": ({}, (24, 8, 12)),
    "c1_semicolon.csv": ({}, (24, 8, 12)), "c2_tab.csv": ({}, (24, 8, 12)),
    "c3_utf16.csv": ({}, (24, 8, 12)), "c4_bom_crlf.csv": ({}, (24, 8, 12)),
    "c6_header_case.csv": ({}, (24, 8, 12)), "c7_nan_text.csv": ({}, (19, 6, 10)),
    "c8_literal_backslash_n.csv": ({}, (24, 8, 12)), "c8b_one_line.csv": ({}, (24, 8, 12)),
    "c9_str_list.csv": ({}, (24, 8, 12)), "c10_dup_header.csv": ({}, "two columns are named"),
    "c11_pandas_index.csv": ({}, (24, 8, 12)), "d1_json_nan.json": ({}, "after row 0.*NaN"),
    "d1b_jsonl_nan.jsonl": ({}, "after row 0.*NaN"), "d2_data_key.json": ({}, (24, 8, 12)),
    "d2b_splits_key.json": ({}, (24, 8, 12)), "d2d_pandas_columns.json": ({}, "in one object"),
    "d3_pretty.jsonl": ({}, (24, 8, 12)), "d3b_array.jsonl": ({}, (24, 8, 12)),
    "d4_utf16.json": ({}, (24, 8, 12)), "d5_int_ids.jsonl": ({}, (24, 8, 12)),
    "d6_split_words.jsonl": ({}, (24, 8, 12)), "d6b_split_eval.jsonl": ({}, (24, 8, 12)),
    "d6c_split_training.jsonl": ({}, (24, 8, 12)), "d7_u2028.jsonl": ({}, (24, 8, 12)),
    "d8_html.jsonl": ({}, (24, 8, 12)), "e1_list_struct.parquet": ({}, (24, 8, 12)),
    "e2_dictionary.parquet": ({}, (24, 8, 12)), "e3_binary.parquet": ({}, "is bytes"),
    "e4_large_string.parquet": ({}, (24, 8, 12)), "e5_zstd.parquet": ({}, (24, 8, 12)),
    "f1_dialogsum_names": ({}, (24, 8, 12)), "f3_no_validation": ({"validation_rows": 3},
                                                                 (21, 3, 12)),
    "f4_missing_shard": ({}, "these are missing: 1"), "f5_save_to_disk": ({}, (24, 8, 12)),
    "f6b_mac_splits.zip": ({}, (24, 8, 12)), "f7_sub_folders": ({}, "to the folder"),
    "f8_mediasum_split_file": ({}, "no file has a split's name"),
    "f9_test_only_refs_later": ({"test_rows": 4}, (20, 8, 4)),
    "f10_unlabelled_test_empty": ({"test_rows": 0.2}, (19, 8, 5)),
    "j1_small_8.csv": ({"validation_rows": 2, "test_rows": 2}, (4, 2, 2)),
    "j1_small_12.csv": ({"validation_rows": 0.2, "test_rows": 0.2}, (8, 2, 2)),
    "j1_small_20.csv": ({"validation_rows": 0.1, "test_rows": 2}, (16, 2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_inputs_that_once_failed(tmp_path: Path, name: str) -> None:
    if not CASES.is_dir():
        pytest.skip("../shared/cases is absent: it is not part of this repository")
    keys, expected = EXPECTED[name]
    recipe = load_recipe(write_recipe(tmp_path, CASES / name, keys))
    if isinstance(expected, str):
        assert re.search(expected, refusal(recipe))
        return
    counts = prepare(recipe).counts
    assert tuple(counts[split].written for split in SPLITS) == expected
    lines = pairs(recipe)[0][0].split("\n")
    assert len(lines) == (1 if name.startswith("c8b") else 5 if name == "a5_sharegpt" else 4)
    assert all(re.match(r"[\w#]+: \S", line) or name.startswith("a5_") for line in lines)


def test_a_year_is_no_number_of_a_part(tmp_path: Path) -> None:
    corpus = write_folder(tmp_path / "corpus", chats(), ".json")
    (corpus / "train.json").rename(corpus / "train-2024.json")
    assert prepare(load_recipe(write_recipe(tmp_path, corpus))).counts["train"].read == 6


def test_a_dialogue_that_contains_its_summary_is_noted(tmp_path: Path) -> None:
    corpus = rows_with(lambda row: f"{row['dialogue']}\nassistant: {row['summary']}")
    notes = prepare(recipe_for(tmp_path, corpus, ".json")).notes
    assert any("contain their own summary" in note for note in notes)


@pytest.mark.parametrize(("value", "turns"), [
    ([{"turn": 1, "speaker": "Ida", "utterances": "hi"}], [Turn("Ida", "hi")]),
    ([{"speaker": "Ida", "text": 5}], [Turn("Ida", "5")]),
    ([{"role": "user", "name": "q1", "content": "hi"},
      {"role": "assistant", "name": "q1", "content": "yo"}],
     [Turn("user", "hi"), Turn("assistant", "yo")]),
    ([["Dr. Berg", "hi"]], [Turn("Dr. Berg", "hi")]),
    ([{"role": "user", "name": "Ida", "content": "hi"}], [Turn("Ida", "hi")]),
])  # fmt: skip
def test_what_is_a_speaker_and_what_a_text(value: object, turns: list[Turn] | None) -> None:
    assert as_turns(value) == turns


@pytest.mark.parametrize("text", [
    "[{'speaker': 'Ida', 'text': 'hi'}\n {'speaker': 'Ole', 'text': 'yo'}]",
])  # fmt: skip
def test_lists_that_numpy_wrote_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is a list without commas, as NumPy writes it"):
        as_list(text)
