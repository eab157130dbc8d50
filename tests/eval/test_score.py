"""`python -m eval.score` on files of outputs: formats, comparisons, bad input."""

import csv
import json
import re
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.settings import Decoding
from eval.baselines import lead
from eval.outputs import FieldNames, load
from eval.scores import Scores
from tests.conftest import PUBLISHED, SHARED, command
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


def test_the_same_outputs_in_three_formats_are_the_same_systems(
    tmp_path: Path, references: Path
) -> None:
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
        assert corpus.references == [row["summary"] for row in rows]
        assert corpus.dialogues == [row["dialogue"] for row in rows]
    plain = tmp_path / "r.txt"
    plain.write_text("\n".join(row["summary"] for row in rows), "utf-8")
    assert load({"it": text}, plain, FieldNames())[1].dialogues is None


def test_files_of_other_references_or_decodings_are_compared_with_force_only(
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
    assert load({"one": one, "two": two}, None, FieldNames(), True)[1].references == ["a b c"]


BAD = {
    "fewer predictions": ("a\n", "p.txt", "1 predictions for 40 references"),
    "empty file": ("", "p.jsonl", "p.jsonl: is empty"),
    "empty text": ("", "p.txt", "p.txt: is empty"),
    "not a number": ('{"id": "x", "prediction": NaN}\n', "p.jsonl", "is nan, not text"),
    "null": ('{"prediction": null}\n', "p.jsonl", "`prediction` is None, not text"),
    "cut in a line": ('{"prediction": "a"}\n{"predic', "p.jsonl", "p.jsonl: .*after row 1"),
    "no object": ("[1]\n", "p.jsonl", "p.jsonl row 1: is a list"),
    "other field": ('{"output": "a"}\n', "p.jsonl", "found: output.*--prediction-field"),
    "ragged": ("prediction,id\na,b,c\n", "p.csv", "p.csv: .*after row 0"),
    "array cut": ('[{"prediction": "a"}, {"pre', "p.json", "p.json: .*after row 1"),
    "not UTF-8": ("caf\udce9\n", "p.txt", "p.txt: is not UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_predictions(tmp_path: Path, name: str) -> None:
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
        ([0, *range(39)], "id `0` occurs twice"),
    ],
)
def test_ids_that_do_not_match(tmp_path: Path, ids: list, message: str) -> None:
    references = jsonl(tmp_path / "r.jsonl", [{"id": n, "reference": "a"} for n in range(40)])
    predictions = jsonl(tmp_path / "p.jsonl", [{"id": n, "prediction": "a"} for n in ids])
    with pytest.raises(UserError, match=message):
        load({"it": predictions}, references, FieldNames())


def test_a_bad_command_line_ends_in_one_line_and_leaves_the_earlier_result(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "one.jsonl", [{"prediction": "a", "reference": "a"}])
    earlier = tmp_path / "scores.json"
    earlier.write_text("an earlier result", "utf-8")
    for flags, message in (
        (("--predictions", tmp_path / "gone.jsonl", "--output", earlier), "gone.jsonl: "),
        (("--predictions", one, one, one), "write NAME="),
        (("--predictions", one, "--output", one / "inside" / "scores.json"), "cannot be written"),
    ):
        done = command("python", "-m", "eval.score", *flags)
        assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
    assert earlier.read_text("utf-8") == "an earlier result"


def test_lead_3_and_a_published_bart_large_and_the_test_between_them(tmp_path: Path) -> None:
    """The real test set: 31.31/8.68/24.17 and 52.61/27.39/43.09/43.09, p < 0.001."""
    samsum, output = SHARED / "samsum/test.json", tmp_path / "scores.json"
    if not (samsum.is_file() and PUBLISHED.is_file()):
        pytest.skip("../shared/data is absent: SAMSum's text may not be shipped with this project")
    text = PUBLISHED.read_text("utf-8")
    bodies = re.split(r"^(?:dialogue|reference|candidate):\s*\n-+\n", text, flags=re.M)[1:]
    bart = [{"prediction": body.strip()} for body in bodies[2::3]]
    leads = [{"prediction": lead(r["dialogue"])} for r in json.loads(samsum.read_text("utf-8"))]
    done = command(
        "python", "-m", "eval.score", "--references", samsum, "--reference-field", "summary",
        "--predictions", jsonl(tmp_path / "lead.jsonl", leads),
        jsonl(tmp_path / "bart.jsonl", bart), "--output", output,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(
        r"^\| bart - lead \|.*\| < 0.001 \| < 0.001 \| 728 \| 90 \|$", done.stdout, re.M
    )
    assert re.search(r"^bart: rouge\|n:819\|agg:mean-f1\|stem:porter\|", done.stdout, re.M)
    scores = Scores.read(output)
    f1 = {
        name: [round(score.f1, 2) for score in system.scores.values()]
        for name, system in scores.systems.items()
    }
    assert f1["lead"][:3] == f1["lead-3"][:3] == pytest.approx([31.31, 8.68, 24.17], abs=0.0101)
    assert f1["bart"] == pytest.approx([52.61, 27.39, 43.09, 43.09], abs=0.0101)
    rouge_l = scores.systems["bart"].scores["rougeL"]
    assert (rouge_l.low, rouge_l.high) == pytest.approx((41.97, 44.20), abs=0.01)
    assert scores.comparisons[0].systems == ("lead", "bart")
    for test in scores.comparisons[0].metrics.values():
        assert test.p_bootstrap < 0.001 and test.p_randomization < 0.001
