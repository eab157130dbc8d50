"""`python -m eval.score` on files of outputs: formats, comparisons, bad input."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from data_prep.errors import UserError
from data_prep.settings import Decoding
from eval.analysis import analyse
from eval.baselines import lead
from eval.language import markup_in, without_markup
from eval.metrics import METRICS
from eval.outputs import FieldNames, load
from eval.score import score
from eval.scores import Bootstrap, Scores
from eval.stats import paired_tests
from tests.conftest import PUBLISHED, SHARED, run_module
from tests.eval.report_data import sample
from tests.eval.test_predictions import generate
from tests.eval.test_signature import key

SUMMARY = FieldNames(reference="summary")


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture()
def references(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "references.jsonl", sample())  # id, dialogue, summary


def test_the_same_outputs_can_be_read_from_three_formats(tmp_path: Path, references: Path) -> None:
    rows = sample()
    outputs = [lead(row["dialogue"], 2).replace("\n", " ") for row in rows]
    made = [{"id": r["id"], "prediction": text} for r, text in zip(rows, outputs, strict=True)]
    reversed_rows = jsonl(tmp_path / "p.jsonl", made[::-1])
    text, table = tmp_path / "p.txt", tmp_path / "p.csv"
    text.write_text("\n".join(outputs) + "\n", "utf-8")
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "prediction"], *(one.values() for one in made)])
    for path in (reversed_rows, text, table):
        systems, corpus = load({"it": path}, references, SUMMARY)
        assert systems["it"].predictions == outputs and systems["it"].stopped is None
        assert corpus.references == [[row["summary"]] for row in rows]
        assert corpus.dialogues == [row["dialogue"] for row in rows]
    plain = tmp_path / "r.txt"
    plain.write_text("\n".join(row["summary"] for row in rows), "utf-8")
    assert load({"it": text}, plain, FieldNames())[1].dialogues is None


def test_files_with_different_references_or_decodings_need_force(
    tmp_path: Path,
) -> None:
    greedy, beams = tmp_path / "greedy.jsonl", tmp_path / "beams.jsonl"
    for path, count in ((greedy, 1), (beams, 4)):
        generate(path, key(Decoding(dtype="float32", num_beams=count)))
    with pytest.raises(UserError, match="decoding: hf-float32-greedy-128, hf-float32-beam4-128"):
        load({"greedy": greedy, "beams": beams}, None, FieldNames())
    systems, _ = load({"greedy": greedy, "beams": beams}, None, FieldNames(), force=True)
    assert systems["beams"].fields["decoding"] == "hf-float32-beam4-128"
    assert systems["beams"].stopped == [True] * 6 and systems["beams"].tokens == [2] * 6
    one = jsonl(tmp_path / "one.jsonl", [{"prediction": "a b", "reference": "a b c"}])
    two = jsonl(tmp_path / "two.jsonl", [{"prediction": "a b", "reference": "a b d"}])
    with pytest.raises(UserError, match=r"refs: \w{8}, \w{8}; .*--force"):
        load({"one": one, "two": two}, None, FieldNames())
    assert load({"one": one, "two": two}, None, FieldNames(), True)[1].references == [["a b c"]]


BAD = {
    "fewer predictions": ("a\n", "p.txt", "1 predictions for 40 references"),
    "empty file": ("", "p.jsonl", "p.jsonl: is empty"),
    "empty text": ("", "p.txt", "p.txt: is empty"),
    "not a number": ('{"id": "x", "prediction": NaN}\n', "p.jsonl", "after row 0 .*NaN"),
    "null": ('{"prediction": null}\n', "p.jsonl", "the prediction is None, not text"),
    "truncated line": ('{"prediction": "a"}\n{"predic', "p.jsonl", "p.jsonl: .*after row 1"),
    "not an object": ("[1]\n", "p.jsonl", "p.jsonl row 1: is int"),
    "other field": ('{"output": "a"}\n', "p.jsonl", "found: output.*--prediction-field"),
    "too many cells": ("prediction,id\na,b,c\n", "p.csv", "p.csv: .*after row 0"),
    "truncated array": ('[{"prediction": "a"}, {"pre', "p.json", "p.json: .*after row 1"),
    "not UTF-8": ("caf\udce9\n", "p.txt", "p.txt: is not UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_predictions_are_refused(tmp_path: Path, name: str) -> None:
    text, file, message = BAD[name]
    references = tmp_path / "r.txt"
    references.write_text("a reference\n" * (40 if name == "fewer predictions" else 1), "utf-8")
    path = tmp_path / file
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message):
        load({"it": path}, references, FieldNames())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["x", *range(1, 40)], "has no prediction for id `0`"),
        ([*range(40), 40], "id `40` has no reference"),
        ([0, *range(39)], "has no prediction for id `39`"),
        ([0, *range(40)], "id `0` occurs 2 times, for 1 references"),
    ],
)
def test_ids_that_do_not_match_are_refused(tmp_path: Path, ids: list, message: str) -> None:
    references = jsonl(tmp_path / "r.jsonl", [{"id": n, "reference": "a"} for n in range(40)])
    predictions = jsonl(tmp_path / "p.jsonl", [{"id": n, "prediction": "a"} for n in ids])
    with pytest.raises(UserError, match=message):
        load({"it": predictions}, references, FieldNames())


def test_a_bad_command_line_prints_one_line_and_keeps_earlier_results(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "one.jsonl", [{"prediction": "a", "reference": "a"}])
    earlier = tmp_path / "scores.json"
    earlier.write_text("an earlier result", "utf-8")
    for flags, message in (
        (("--predictions", tmp_path / "gone.jsonl", "--output", earlier), "gone.jsonl: "),
        (("--predictions", one, one, one), "write NAME="),
        (("--predictions", one, "--output", one / "inside" / "scores.json"), "cannot be written"),
    ):
        done = run_module("eval.score", *flags)
        assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
    assert earlier.read_text("utf-8") == "an earlier result"


def test_lead_3_and_published_bart_large_have_the_expected_scores(tmp_path: Path) -> None:
    """On SAMSum's test set: 31.31/8.68/24.17 and 52.61/27.39/43.09/48.52, p < 0.001."""
    samsum, output = SHARED / "samsum/test.json", tmp_path / "scores.json"
    if not (samsum.is_file() and PUBLISHED.is_file()):
        pytest.skip("../shared/data is absent: SAMSum's text may not be shipped with this project")
    text = PUBLISHED.read_text("utf-8")
    bodies = re.split(r"^(?:dialogue|reference|candidate):\s*\n-+\n", text, flags=re.M)[1:]
    bart = [{"prediction": body.strip()} for body in bodies[2::3]]
    leads = [{"prediction": lead(r["dialogue"])} for r in json.loads(samsum.read_text("utf-8"))]
    done = run_module(
        "eval.score", "--references", samsum, "--reference-field", "summary", "--workers", 1,
        "--predictions", jsonl(tmp_path / "lead.jsonl", leads),
        jsonl(tmp_path / "bart.jsonl", bart), "--output", output,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"^bart - lead  .* < 0.001  +< 0.001  +728  +90$", done.stdout, re.M)
    assert "bart beats lead by 18.92 ROUGE-L points, and the strongest baseline" in done.stdout
    assert re.search(r"^bart: rouge\|n:819\|agg:mean-f1\|stem:porter\|", done.stdout, re.M)
    scores = Scores.read(output)
    f1 = {
        name: [round(score.f1, 2) for score in system.scores.values()]
        for name, system in scores.systems.items()
    }
    assert f1["lead"][:3] == f1["lead-3"][:3] == pytest.approx([31.31, 8.68, 24.17], abs=0.0101)
    assert f1["bart"] == pytest.approx([52.61, 27.39, 43.09, 48.52], abs=0.0101)
    rouge_l = scores.systems["bart"].scores["rougeL"]
    assert (rouge_l.low, rouge_l.high) == pytest.approx((41.97, 44.20), abs=0.01)
    assert scores.comparisons[0].systems == ("lead", "bart")
    for test in scores.comparisons[0].metrics.values():
        assert test.p_bootstrap < 0.001 and test.p_randomization < 0.001


# ---- files of other tools, and odd input ----

THREE = ["Mara borrows the ladder.", "Lina meets Owen at 3.", "They camp on Saturday."]


def scored(*flags: object) -> tuple[dict[str, float], str]:
    """Score one system with the command; return its ROUGE and the output."""
    done = run_module("eval.score", *flags, "--workers", 1)
    assert done.returncode == 0, done.stderr
    row = re.split(r"  +", done.stdout.split("\nsystem")[-1].splitlines()[1])
    return dict(
        zip(METRICS, (float(cell.split()[0]) for cell in row[1:]), strict=False)
    ), done.stdout


def test_files_of_llama_factory_and_lm_eval_are_read_without_options(tmp_path: Path) -> None:
    factory = [{"prompt": "x", "predict": text, "label": text} for text in THREE]
    harness = [
        {
            "doc_id": n, "doc": {"id": f"d{n}", "dialogue": f"A: {text}"}, "target": text,
            "filter": "none", "resps": [[text]], "filtered_resps": [text],
        }
        for n, text in enumerate(THREE)
    ]  # fmt: skip
    for rows in (factory, harness):
        systems, corpus = load({"it": jsonl(tmp_path / "p.jsonl", rows)}, None, FieldNames())
        assert systems["it"].predictions == THREE and corpus.references == [[t] for t in THREE]
    assert corpus.dialogues == [f"A: {text}" for text in THREE] and corpus.ids == ["d0", "d1", "d2"]
    both = jsonl(tmp_path / "q.jsonl", harness + [row | {"filter": "strip"} for row in harness])
    with pytest.raises(UserError, match=r"outputs of 2 filters \(none, strip\); keep the lines"):
        load({"it": both}, None, FieldNames())


def test_prepared_rows_can_be_references(tmp_path: Path) -> None:
    prepared = [
        {
            "id": "a",
            "dialogue": "A: hi",
            "summary": "Hi.",
            "messages": [],
            "references": ["Hi.", "Yo."],
        },
        {"id": "b", "dialogue": "B: ho", "summary": "Ho.", "messages": [], "references": ["Ho."]},
    ]
    made = [{"id": "b", "prediction": "ho"}, {"id": "a", "prediction": "yo"}]
    files = {"it": jsonl(tmp_path / "p.jsonl", made)}
    systems, corpus = load(files, jsonl(tmp_path / "test.jsonl", prepared), FieldNames())
    assert systems["it"].predictions == ["yo", "ho"] and corpus.dialogues == ["A: hi", "B: ho"]
    assert corpus.references == [["Hi.", "Yo."], ["Ho."]]


@pytest.mark.parametrize("fields", [("id", "idx"), ("idx", "idx"), ("doc_id", "id")])
def test_ids_join_under_any_name_and_type(tmp_path: Path, fields: tuple) -> None:
    ours, theirs = fields
    made = [{ours: n, "prediction": THREE[n]} for n in (2, 0, 1)]
    wanted = [{theirs: kind(n), "reference": THREE[n]} for n, kind in enumerate((str, int, float))]
    files = {"it": jsonl(tmp_path / "p.jsonl", made)}
    references = jsonl(tmp_path / "r.jsonl", wanted)
    assert load(files, references, FieldNames())[0]["it"].predictions == THREE
    by_order = load(files, references, FieldNames(), by_order=True)[0]["it"]
    assert by_order.predictions == [THREE[2], THREE[0], THREE[1]]


def test_a_single_record_without_an_id_is_refused(tmp_path: Path) -> None:
    wanted = jsonl(tmp_path / "r.jsonl", [{"id": n, "reference": t} for n, t in enumerate(THREE)])
    made = [{"id": n, "prediction": t} for n, t in enumerate(THREE)]
    del made[1]["id"]
    files = {"it": jsonl(tmp_path / "p.jsonl", made)}
    with pytest.raises(UserError, match="p.jsonl row 2: has no id, but other records do"):
        load(files, wanted, FieldNames())
    assert load(files, wanted, FieldNames(), by_order=True)[0]["it"].predictions == THREE


def test_a_join_by_order_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = jsonl(tmp_path / "p.jsonl", [{"prediction": text} for text in THREE])
    wanted = jsonl(tmp_path / "r.jsonl", [{"id": t, "reference": t} for t in THREE])
    load({"it": made}, wanted, FieldNames())
    assert "p.jsonl and " in (said := capsys.readouterr().out) and "joined by order" in said


MARKED = {
    "{}<|im_end|>\n": "<|im_end|>",
    "{}</s>": "</s>",
    "{}<｜end▁of▁sentence｜>": "<｜end▁of▁sentence｜>",
    "<think>\nShe says <b>.\n</think>\n\n{}": "<think>",
    "She says.</think>{}": "</think>",
    "<seed:think>Hm.</seed:think>{}<seed:eos>": "<seed:think>",
    "<|begin_of_thought|>Hm.<|end_of_thought|>{}": "<|begin_of_thought|>",
    "<|channel>thought\nHm.<channel|>{}<turn|>": "<|channel>",
    "<pad><extra_id_0>{}<0x0A>": "<pad>",
    "<think>Hm. <think>So</think> Yes.</think>{}": "<think>",
    "{}<|im_end|>\n<|im_start|>user\nAnd now?": "<|im_end|>",
    "<|im_start|>user\nSum up.<|im_end|>\n<|im_start|>assistant\n{}": "<|im_start|>",
    "[INST] Sum up: Ann: hi [/INST] {} </s>": "[INST]",
    "<start_of_turn>model\n{}<end_of_turn>": "<start_of_turn>",
    "<|start_of_role|>assistant<|end_of_role|>{}[|endofturn|]": "<|start_of_role|>",
    "<|START_THINKING|>Hm.<|END_THINKING|>{}": "<|START_THINKING|>",
    "a</think>b</think>{}": "</think>",
    "[gMASK]<sop><think/><answer>{}</answer>": "[gMASK]",
    "<think>Hm.</thinking>{}<|im_end": "<think>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>": "<|start_header_id|>",
    "[THINK]Hm.[/THINK]{}": "[THINK]",
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{}": (
        "<|channel|>"
    ),
}


@pytest.mark.parametrize("form", MARKED)
def test_control_tokens_and_think_blocks_are_found_and_stripped(form: str) -> None:
    text = form.format(THREE[0])
    assert markup_in(text) == MARKED[form] and without_markup(text) == THREE[0]


def test_summaries_with_control_tokens_are_refused_or_stripped(tmp_path: Path) -> None:
    rows = [{"prediction": f"{text}<|im_end|>\n", "reference": text} for text in THREE]
    rows[1]["prediction"] = THREE[1]
    path = jsonl(tmp_path / "p.jsonl", rows)
    done = run_module("eval.score", "--predictions", path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "row 1: has `<|im_end|>`" in done.stderr and "(2 such texts)" in done.stderr
    means, printed = scored("--predictions", path, "--strip")
    assert means == dict.fromkeys(METRICS, 100.0)
    assert "note: 2 summaries of p held control tokens or think blocks, which were" in printed
    assert "|strip:control+think|stripped:2" in printed


@pytest.mark.parametrize("text", ["I <3 you [1]", "<file_photo> think", "a < b > c", "</3 <br>"])
def test_chat_text_is_not_a_control_token(text: str) -> None:
    assert not markup_in(text) and without_markup(text) == text


def test_an_unfinished_think_block_is_removed() -> None:
    assert without_markup("<think>She wants") == "" and without_markup("Hi. <think>She") == "Hi."


def test_csv_delimiters_odd_line_ends_and_repeated_columns(tmp_path: Path) -> None:
    for delimiter in ";|,\t":
        text = delimiter.join(("id", "prediction", "reference")) + "\n"
        text += "".join(delimiter.join((str(n), one, one)) + "\n" for n, one in enumerate(THREE))
        (tmp_path / "p.csv").write_text(text.replace("camp", "camp\u2028"), "utf-8")
        systems, _ = load({"it": tmp_path / "p.csv"}, None, FieldNames())
        assert systems["it"].predictions[:2] == THREE[:2]
    (tmp_path / "p.csv").rename(tmp_path / "p.tsv")
    assert load({"it": tmp_path / "p.tsv"}, None, FieldNames())[0]["it"].predictions[0] == THREE[0]
    (tmp_path / "p.csv").write_text("prediction,reference,reference\na,b,c\n", "utf-8")
    (tmp_path / "p.jsonl").write_text('{"prediction": "a", "reference": 1, "reference": 2}\n')
    (tmp_path / "p.json").write_text('[{"prediction": "a", "reference": 1, "reference": 2}]')
    columns = [pyarrow.array([text]) for text in "abc"]
    table = pyarrow.Table.from_arrays(columns, ["prediction", "reference", "reference"])
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    for kind in ("csv", "jsonl", "json", "parquet"):
        with pytest.raises(UserError, match="two columns are named `reference`"):
            load({"it": tmp_path / f"p.{kind}"}, None, FieldNames())


# ---- several references, several rows of a dialogue ----


def dialogues_of_three(tmp_path: Path, name: str, form: str, change: bool) -> Path:
    """Write 40 dialogues with three rows each, as in DialogSum's test split."""
    rows = []
    for number, row in enumerate(sample()):
        for part in range(3):
            text = row["summary"] if number % 3 or not change else "Nobody knows."
            own: dict[str, dict[str, object]] = {
                "ids": {"id": f"{number}_{part}"},
                "letters": {"id": f"{number}{'abc'[part]}"},
                "words": {"id": f"d{number}:ref{part}"},
                "in front": {"id": f"{part}_{number}"},
                "same id": {"id": number},
                "dialogue": {"id": f"{number}{part}", "dialogue": row["dialogue"]},
            }
            reference = " ".join(row["summary"].split()[part * 2 :])
            rows.append({**own[form], "prediction": text[: 60 - number], "reference": reference})
    return jsonl(tmp_path / f"{name}.jsonl", rows)


@pytest.mark.parametrize("form", ["ids", "letters", "words", "in front", "same id", "dialogue"])
def test_rows_of_one_dialogue_are_recognised(tmp_path: Path, form: str) -> None:
    files = {name: dialogues_of_three(tmp_path, name, form, name == "b") for name in ("a", "b")}
    clusters = load(files, None, FieldNames())[1].clusters or []
    places = {name: [n // 3 for n, one in enumerate(clusters) if one == name] for name in clusters}
    assert list(places.values()) == [[n] * 3 for n in range(40)]


def test_rows_of_one_dialogue_count_once_in_intervals_and_tests(tmp_path: Path) -> None:
    files = {name: dialogues_of_three(tmp_path, name, "ids", name == "b") for name in ("a", "b")}
    systems, corpus = load(files, None, FieldNames())
    result = analyse(systems, corpus, workers=1)
    means = {name: values.reshape(40, 3, -1).mean(axis=1) for name, values in result.values.items()}
    (pair,) = result.scores.comparisons
    expected = paired_tests(means["a"], means["b"], Bootstrap())
    assert list(pair.metrics.values())[: len(METRICS)] == expected
    rows = paired_tests(result.values["a"], result.values["b"], Bootstrap())
    width = [test.high - test.low for test in (pair.metrics["rougeL"], rows[2])]
    assert width[0] > 1.4 * width[1]  # counting rows as dialogues makes it too narrow
    assert (result.scores.examples, result.scores.dialogues) == (120, 40)
    assert "|clusters:40|" in result.scores.systems["a"].signature
    score = result.scores.systems["a"].scores["rougeL"]
    assert score.f1 == pytest.approx(100 * means["a"][:, 2].mean(), abs=1e-4)


def test_ids_that_only_look_alike_form_no_clusters(tmp_path: Path) -> None:
    rows = [{"id": f"x_{n}", "prediction": t, "reference": t} for n, t in enumerate(THREE)]
    _, corpus = load({"it": jsonl(tmp_path / "p.jsonl", rows)}, None, FieldNames())
    assert corpus.clusters is None


def test_one_prediction_for_several_reference_rows_has_several_references(tmp_path: Path) -> None:
    wanted = [{"id": n // 2, "reference": text} for n, text in enumerate([*THREE, "They camp."])]
    made = [{"id": n, "prediction": text} for n, text in enumerate((THREE[1], "they camp"))]
    files = {"it": jsonl(tmp_path / "p.jsonl", made)}
    systems, corpus = load(files, jsonl(tmp_path / "r.jsonl", wanted), FieldNames())
    assert corpus.references == [THREE[:2], [THREE[2], "They camp."]] and not corpus.clusters
    scores = analyse(systems, corpus, workers=1).scores
    assert scores.systems["it"].scores["rougeL"].f1 == 100 and "multi:best-f1" in (
        scores.systems["it"].signature
    )


def test_rows_that_look_repeated_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": n, "prediction": str(n // 3), "reference": "a"} for n in range(12)]
    _, corpus = load({"it": jsonl(tmp_path / "p.jsonl", rows)}, None, FieldNames())
    assert corpus.clusters is None
    assert "12 rows have 4 distinct predictions" in capsys.readouterr().out


@pytest.mark.parametrize("ours", ["one", "three"])
def test_rows_of_dialogsum_join_by_the_dialogue_in_their_ids(tmp_path: Path, ours: str) -> None:
    wanted: list[dict[str, Any]] = [
        {"id": f"t_{n}_{k}", "reference": f"{n} {k}"} for n in range(4) for k in (1, 2, 3)
    ]
    if ours == "three":  # against prepared rows, one per dialogue
        wanted = [{"id": f"t_{n}_1", "summary": "s", "references": ["x", f"{n}"]} for n in range(4)]
    parts = (1,) if ours == "one" else (1, 2, 3)
    made = [{"id": f"t_{n}_{k}", "prediction": str(n)} for n in range(4) for k in parts]
    files = {"it": jsonl(tmp_path / "p.jsonl", made)}
    _, corpus = load(files, jsonl(tmp_path / "r.jsonl", wanted), FieldNames())
    assert len(corpus.references[0]) == (3 if ours == "one" else 2)
    assert bool(corpus.clusters) == (ours == "three")


@pytest.mark.parametrize("text", ["['a b', 'c']", '["a b", "c"]'])
def test_a_list_written_as_text_is_read_as_a_list(tmp_path: Path, text: str) -> None:
    rows = [{"prediction": "c", "reference": text}, {"prediction": "c", "reference": "[c] d"}]
    _, corpus = load({"it": jsonl(tmp_path / "p.jsonl", rows)}, None, FieldNames())
    assert corpus.references == [["a b", "c"], ["[c] d"]]


def test_names_of_columns_files_and_options(tmp_path: Path) -> None:
    text = "".join(f'{{"ID ": {n}, "Prediction": "{t}"}}\n' for n, t in enumerate(THREE))
    wanted = jsonl(tmp_path / "r.jsonl", [{"id": 2.0 - n, "reference": "a"} for n in range(3)])
    for name in ("p.ndjson", "p.jsonlines", "p.JSONL"):
        (tmp_path / name).write_text(text, "utf-8")
        assert (
            load({"it": tmp_path / name}, wanted, FieldNames())[0]["it"].predictions[0] == THREE[2]
        )
    (tmp_path / "p.txt").write_text(text, "utf-8")
    for file, names, message in (
        ("p.txt", FieldNames(), "has a JSON object on each line; rename it to .jsonl"),
        ("p.JSONL", FieldNames(id="uid"), "--id-field uid: no record"),
    ):
        with pytest.raises(UserError, match=message):
            load({"it": tmp_path / file}, wanted, names)
    with pytest.raises(UserError, match="lead-3 is a baseline's name; write NAME="):
        load({"lead-3": tmp_path / "p.JSONL"}, wanted, FieldNames())
    for row, message in (
        ({"prediction": "a", "reference": " "}, "the reference is empty; fill it"),
        ({"prediction": "a \ud800", "reference": "a"}, "half of a surrogate pair"),
    ):
        (tmp_path / "q.jsonl").write_text(json.dumps(row), "utf-8")
        with pytest.raises(UserError, match=message):
            load({"it": tmp_path / "q.jsonl"}, None, FieldNames())


def test_the_python_function_refuses_what_it_cannot_score() -> None:
    for predictions, references in (
        (["a"], [None]), (["a"], ["a", "b"]), ([], []), ({}, ["a"]), ("A", "A"), ([["a"]], ["a"]),
        ({"lead-3": ["a"]}, ["a"]), (["a"], [[]]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected|is not text|name of a baseline"):
            score(predictions, references)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ISO 639"):
        score(["a"], ["a"], language="German")
    assert "stem:german" in score(["a"], ["a"], stemmer="german").systems["predictions"].signature
    assert score(["a", "a"], ["a", "b"], ["x: y", "x:  y"]).dialogues == 1


def test_numbered_columns_are_references(tmp_path: Path) -> None:
    row = {"prediction": "a b", "summary1": "c", "summary2": "a b", "summary10": "d"}
    _, corpus = load({"it": jsonl(tmp_path / "p.jsonl", [row])}, None, FieldNames())
    assert corpus.references == [["c", "a b", "d"]]


# ---- inputs rebuilt from public reports ----

CASES = SHARED.parent / "cases/score"
RIGHT: dict[str, tuple[list[str], list[float]]] = {  # files and flags; ROUGE-1 and ROUGE-L
    "zh": (["l_zh_same.jsonl", "--references", "l_zh_ref.jsonl"], [100, 100]),
    "ru": (["l_ru_same.jsonl", "--references", "l_ru_ref.jsonl"], [100, 100]),
    "pl": (["l_pl_same.jsonl", "--references", "l_pl_ref.jsonl"], [100, 100]),
    "de": (["l_de_same.jsonl", "--references", "l_de_ref.jsonl"], [100, 100]),
    "eos": (["p_lf_eos.jsonl", "--strip"], [7.41, 7.41]),
    "clean": (["p_lf_clean.jsonl"], [7.41, 7.41]),
    "think": (["p_think.jsonl", "--strip"], [100, 100]),
    "id and idx": (["p_id_pred.jsonl", "--references", "p_idx_ref.jsonl"], [100, 100]),
    "idx": (["p_idx_shuffled.jsonl", "--references", "p_idx_ref.jsonl"], [100, 100]),
    "no id": (["p_noid_shuffled.jsonl", "--references", "p_noid_ref.jsonl"], [4.76, 4.76]),
    "semicolon": (["p_semi.csv"], [100, 100]),
    "line end": (["p_u2028.csv"], [100, 100]),
    "lm-eval": (["p_lmeval.jsonl"], [100, 100]),
    "rows": (["m_rep_A.jsonl", "--references", "m_rep_ref.jsonl"], [42.70, 29.79]),
    "lists": (["s1_A.jsonl", "--references", "s1_refs_list.jsonl"], [62.08, 51.53]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_cases_that_once_failed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not CASES.is_dir():
        pytest.skip("../shared/cases is absent: it is not part of this repository")
    (predictions, *flags), expected = RIGHT[name]
    paths = [CASES / flag if "." in flag else flag for flag in flags]
    means, printed = scored("--predictions", CASES / predictions, *paths)
    assert [means["rouge1"], means["rougeL"]] == expected, printed
