"""Rating sheets: blind and safe to open, read as spreadsheets save them, and evaluated."""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.stats import binomtest

from data_prep.errors import UserError
from eval.rate import Key, as_text, main, read_sheet
from eval.ratings import Rating, Ratings, cohens_kappa, evaluate, krippendorffs_alpha, tables
from tests.conftest import run_module
from tests.eval.report_data import sample
from tests.eval.test_score import jsonl

# text that breaks careless CSV code or that spreadsheets change
AWKWARD = 'Ana: "hi"; see you, Bo?\nBo: =1+1 🎉\n\n- Ana: it\'s 5 €;\tok'


def rate(*args: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rate", *map(str, args)])
        main()


def predictions(path: Path, texts: dict[str, str], **fields: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    rows = [
        {"id": name, "dialogue": f"Ana: hello {name}", "prediction": text, **fields}
        for name, text in texts.items()
    ]
    return jsonl(path, rows)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder of 40 dialogues; each summary starts with its system's name."""
    folder = tmp_path / "results"
    for system in ("base", "tuned"):
        texts = {row["id"]: f"{system}'s {row['id']} 🎉" for row in sample()}
        predictions(folder / f"predictions.{system}.jsonl", texts, reference=["one", "two"])
    return folder


def opened(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def filled(
    sheet: Path,
    rater: str,
    fill: Callable[[int, dict[str, str]], dict[str, str]],
    encoding: str = "utf-8-sig",
    delimiter: str = ",",
) -> Path:
    """Save a rater's copy of a sheet as a spreadsheet would; `fill` returns cells by column."""
    rows = opened(sheet)
    names = {title.split(" ")[0]: title for title in rows[0]}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    for number, row in enumerate(rows):
        cells = fill(number, row)
        writer.writerow(row | {names.get(name, name): cell for name, cell in cells.items()})
    path = sheet.with_name(f"{rater}.csv")
    path.write_bytes(text.getvalue().encode(encoding, "replace"))
    return path


def column_of(system: str, row: dict[str, str]) -> str:
    return next(n for n in "123" if row[f"summary_{n}"].startswith(system))


# ---- the sheet ----


def test_the_order_is_blind_balanced_and_repeatable(results: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "ratings.csv"
    rate("sheet", results, "--rows", 31, "--output", sheet)
    rows = opened(sheet)
    assert list(rows[0]) == [
        "id", "dialogue", "summary_1", "summary_2", "best (1, 2 or tie)", "faithful_1 (y/n)",
        "faithful_2 (y/n)", "note",
    ]  # fmt: skip
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == 31 and ids != sorted(ids, key=[r["id"] for r in sample()].index)
    firsts = [row["summary_1"].split("'")[0] for row in rows]
    assert sorted(Counter(firsts).values()) == [15, 16]
    assert len(set(zip(firsts, firsts[1:], strict=False))) == 4  # they do not alternate
    key = Key.model_validate_json((tmp_path / "ratings.key.json").read_bytes())
    assert [(row.id, row.systems[0]) for row in key.rows] == list(zip(ids, firsts, strict=True))

    rate("sheet", results, "--rows", 31, "--output", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == sheet.read_bytes()
    rate("sheet", results, "--rows", 31, "--output", tmp_path / "other.csv", "--seed", 1)
    assert [row["id"] for row in opened(tmp_path / "other.csv")] != ids
    rate("sheet", results, "--rows", 99, "--output", tmp_path / "all.csv", "--reference")
    assert {row["reference"] for row in opened(tmp_path / "all.csv")} == {"one\ntwo"}
    assert len(opened(tmp_path / "all.csv")) == 40


def test_three_systems_are_joined_by_id_and_equally_often_in_each_column(tmp_path: Path) -> None:
    for name, ids in (("a", range(30)), ("c", range(50)[::-1])):
        texts = {str(n): f"{name} {n}" for n in ids}
        predictions(tmp_path / f"{name}.1" / "predictions.tuned.jsonl", texts)
    bare = [{"id": n, "prediction": f"b {n}"} for n in range(40)]  # as another program writes it
    rate("sheet", tmp_path / "a.1", f"bee={jsonl(tmp_path / 'b.jsonl', bare)}", tmp_path / "c.1",
         "--output", tmp_path / "r.csv", "--semicolon")  # fmt: skip
    rows = opened(tmp_path / "r.csv", ";")
    assert len(rows) == 30 and "best (1, 2, 3 or tie)" in rows[0]
    for n in "123":
        assert Counter(row[f"summary_{n}"][0] for row in rows) == {"a": 10, "b": 10, "c": 10}
    for row in rows:
        assert {row[f"summary_{n}"].split()[1] for n in "123"} == {row["id"]}
    key = json.loads((tmp_path / "r.key.json").read_text("utf-8"))
    assert list(key["systems"]) == ["a.1", "bee", "c.1"]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        *((text, f"'{text}") for text in ("=1+1", "+49 30", "-x", "@Ana", "'so'", " =1")),
        *((text, f"'{text}") for text in ("0012", "1-2", "12:30", "1e5", "1234567890123456")),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("\t=1", "' =1"),  # LibreOffice drops a tab
        *((text, text) for text in ("13862856", "0", "a=1", "7 pm", "", "Ana: hi\n=1+1")),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
    ],
)
def test_no_cell_becomes_a_formula_a_number_or_a_date(text: str, cell: str) -> None:
    assert as_text(text) == cell


@pytest.mark.parametrize(
    ("encoding", "delimiter"),
    [("utf-8-sig", ","), ("utf-8", ";"), ("utf-16", "\t"), ("cp1252", ";")],
)
def test_a_round_trip_of_awkward_texts(tmp_path: Path, encoding: str, delimiter: str) -> None:
    for name, text in (("one", "=SUM(A1)\n🎉"), ("two", "'quoted', é")):
        rows = [{"id": id_, "dialogue": AWKWARD, "prediction": text} for id_ in ("007", "-8")]
        jsonl(tmp_path / f"{name}.jsonl", rows)
    sheet = tmp_path / "ratings.csv"
    rate("sheet", tmp_path / "one.jsonl", tmp_path / "two.jsonl", "--output", sheet)
    data = sheet.read_bytes()
    assert data.startswith(b"\xef\xbb\xbfid,") and data.count(b"\r\n") == 3  # once per row
    rows = opened(sheet)
    assert {row["id"] for row in rows} == {"'007", "'-8"}
    assert rows[0]["dialogue"] == AWKWARD.replace("\t", " ")
    for row in rows:
        assert {row["summary_1"], row["summary_2"]} == {"'=SUM(A1)\n🎉", "''quoted', é"}
    key = Key.model_validate_json((tmp_path / "ratings.key.json").read_bytes())

    def fill(_: int, row: dict[str, str]) -> dict[str, str]:
        # a cell that is retyped in a spreadsheet loses the apostrophe
        dialogue = row["dialogue"].replace("\n", "\r\n")
        return {
            "id": row["id"].lstrip("'"),
            "dialogue": dialogue,
            "best": column_of("''quoted", row),
            "note": "ü",
        }

    again = read_sheet(filled(sheet, "ana", fill, encoding, delimiter), key)
    assert again == {name: Rating(frozenset({"two"})) for name in ("007", "-8")}


def test_nothing_is_overwritten_and_bad_input_gives_one_line(results: Path, tmp_path: Path) -> None:
    sheet, key = tmp_path / "ratings.csv", tmp_path / "ratings.key.json"
    rate("sheet", results, "--output", sheet)
    sheet.write_text("ratings of a week", "utf-8")
    done = run_module("eval.rate", "sheet", results, "--output", sheet)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--overwrite" in done.stderr
    assert sheet.read_text("utf-8") == "ratings of a week"
    sheet.rename(tmp_path / "sent.csv")
    with pytest.raises(UserError, match=r"ratings.key.json: exists"):
        rate("sheet", results, "--output", sheet)
    rate("sheet", results, "--output", sheet, "--overwrite")
    assert len(opened(sheet)) == 40 and key.is_file()

    new, base = tmp_path / "new.csv", results / "predictions.base.jsonl"
    other = predictions(tmp_path / "other.jsonl", {"x": "a"})
    row = sample()[0]["id"]
    changed = jsonl(
        tmp_path / "changed.jsonl", [{"id": row, "dialogue": "Bo: no", "prediction": ""}]
    )
    number = jsonl(tmp_path / "number.jsonl", [{"id": row, "prediction": 3}])
    bare = jsonl(tmp_path / "bare.jsonl", [{"prediction": "a"}])
    for args, message in (
        ([base], "two or more systems"),
        ([tmp_path / "no", base], "no: no such results"),
        ([tmp_path], "has no predictions; run"),
        ([base, other], "no id is in all of"),
        ([base, changed], f"changed.jsonl row 1: the dialogue of id `{row}`.*base.jsonl row 1"),
        ([base, number], "number.jsonl row 1: the prediction is 3, not text"),
        ([base, bare], "bare.jsonl row 1: has no id"),
        ([base, base], "is given twice"),
        ([results, "--rows", 0], "--rows: 0"),
    ):
        with pytest.raises(UserError, match=message):
            rate("sheet", *args, "--output", new)
    assert not new.exists()


# ---- reading ----


def test_two_raters_from_the_sheet_to_the_tables(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ana rates 10 dialogues, Bo 8 of them; Bo differs from her on the first two."""
    sheet = tmp_path / "ratings.csv"
    rate("sheet", results, "--rows", 12, "--output", sheet)

    def ana(number: int, row: dict[str, str]) -> dict[str, str]:
        tuned, base = column_of("tuned", row), column_of("base", row)
        best = tuned if number < 8 else base if number == 8 else "TIE"
        faithful = {f"faithful_{tuned}": "y", f"faithful_{base}": "No" if number < 5 else "yes "}
        return {"best": f"{best}.0" if number == 3 else best, **faithful} if number < 10 else {}

    def bo(number: int, row: dict[str, str]) -> dict[str, str]:
        said = ana(number, row) if number < 8 else {}
        if number == 0:
            said["best"] = column_of("base", row)
        if number == 1:
            said |= {"best": "=", f"faithful_{column_of('tuned', row)}": "n"}
        return said

    paths = filled(sheet, "ana", ana), filled(sheet, "bo", bo, "utf-16", "\t")
    rate("read", *paths, "--output", tmp_path / "r.json")  # the folder has only one key
    result = Ratings.model_validate_json((tmp_path / "r.json").read_bytes())
    of = result.raters["ana"].preferences[0]
    assert of.systems == ("base", "tuned") and (of.wins, of.ties, of.losses) == (8, 1, 1)
    # 8 of 9: 2 * (1 + 9) / 2^9; the interval ends are quantiles of Beta(8, 2) and Beta(9, 1)
    assert of.p == pytest.approx(20 / 512)
    assert of.win_rate.percent == 88.89
    assert (of.win_rate.low, of.win_rate.high) == (51.75, round(100 * 0.975 ** (1 / 9), 2))
    # the raters differ on dialogue 1, a tie; on dialogue 2, one prefers tuned and none base
    together = result.together.preferences[0]
    assert (together.wins, together.ties, together.losses) == (7, 2, 1)
    assert result.raters["bo"].preferences[0].win_rate.count == 6
    faithful = result.together.faithful
    # base: 5 of 10; tuned: 9, since one of two raters found a mistake in the second
    assert (faithful["base"].count, faithful["base"].total, faithful["tuned"].count) == (5, 10, 9)
    best, truth = result.agreement
    assert (best.items, best.percent, truth.items, truth.percent) == (8, 75, 16, 93.75)
    # of 8, Ana calls tuned best 8 times, Bo 6 times: chance alone would agree as often
    assert best.kappa == 0
    # both judge 16: 11 and 10 yes, 5 and 6 no: (15/16 - 140/256) / (1 - 140/256)
    assert truth.kappa == pytest.approx((240 - 140) / (256 - 140), abs=1e-4)
    printed = capsys.readouterr().out
    assert "| tuned over base | ana | 8 | 1 | 1 | 88.9 [51.8, 99.7] | 0.0391 |" in printed
    assert "| tuned over base | all (majority) | 7 | 2 | 1 |" in printed
    assert "| faithful | ana and bo | 16 | 93.8 | 0.86 |" in printed


def test_bad_sheets_are_refused(results: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "ratings.csv"
    rate("sheet", results, "--rows", 5, "--output", sheet)
    name = opened(sheet)[2]["id"]

    def at_2(**cells: str) -> Path:
        return filled(sheet, "ana", lambda n, row: cells if n == 2 else {"best": "1"})

    for cells, message in (
        ({"best": "3"}, "ana.csv row 4: best is `3`; use 1, 2 or tie"),
        ({"faithful_2": "maybe"}, "row 4: faithful_2 is `maybe`; use y or n"),
        ({"id": "1-Jan"}, "row 4: id `1-Jan` is not in the key"),
        ({"id": opened(sheet)[0]["id"]}, "row 4: id .* occurs twice"),
        ({"summary_1": "better"}, f"row 4: the dialogue or summaries of id `{name}`"),
        ({"dialogue": opened(sheet)[1]["dialogue"]}, "row 4: the dialogue or summaries"),
    ):
        with pytest.raises(UserError, match=message):
            rate("read", at_2(**cells))
    empty = filled(sheet, "ana", lambda n, row: {"note": "no time", "best": " "})
    with pytest.raises(UserError, match="ana.csv: has no rating; fill"):
        rate("read", empty)
    good = at_2(best="tie")
    with pytest.raises(UserError, match="given twice"):
        rate("read", good, f"bo={good}")
    with pytest.raises(UserError, match="gone.json: is missing.*--key"):
        rate("read", good, "--key", tmp_path / "gone.json")
    with pytest.raises(UserError, match="cannot be read"):
        rate("read", good, "--key", results / "predictions.base.jsonl")
    rate("sheet", results, "--output", tmp_path / "second.csv")
    with pytest.raises(UserError, match="no ana.key.json next to it.*--key"):
        rate("read", good)
    rate("read", good, "--key", tmp_path / "ratings.key.json")

    text = sheet.read_bytes()
    for data, message in (
        (b"PK\x03\x04...", "is a workbook; save the sheet as `CSV UTF-8`"),
        (b"id\x81,", "is not UTF-8 .*CSV UTF-8"),
        (b"", "row 1: 0 columns are named `id`"),
        (text.replace(b"best (", b"(", 1), "row 1: 0 columns are named `best`"),
    ):
        sheet.write_bytes(data)
        with pytest.raises(UserError, match=message):
            rate("read", sheet)


def test_rows_may_be_sorted_deleted_and_left_empty(results: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "ratings.csv"
    rate("sheet", results, "--rows", 6, "--output", sheet)
    ids = [row["id"] for row in opened(sheet)]
    path = filled(sheet, "ana", lambda n, row: {"best": column_of("tuned", row)} if n < 4 else {})
    head, *lines = path.read_text("utf-8-sig").splitlines()  # no cell has two lines
    path.write_text("\n".join([head, *lines[:0:-1], "," * 20, ""]), "utf-8")  # without row 1
    key = Key.model_validate_json((tmp_path / "ratings.key.json").read_bytes())
    expected = {name: Rating(frozenset({"tuned"})) for name in ids[1:4]}
    assert read_sheet(path, key) == expected


# ---- evaluating ratings ----


def test_best_of_three_systems() -> None:
    """A vote for c says nothing about a and b; a vote for two systems is a tie between them."""
    ratings = [{"a"}, {"a"}, {"c"}, {"a", "b"}, {"a", "b", "c"}]
    rater = {str(n): Rating(frozenset(best)) for n, best in enumerate(ratings)}
    result = evaluate({"ana": rater}, dict.fromkeys("abc", "")).together
    found = {of.systems: (of.wins, of.ties, of.losses) for of in result.preferences}
    assert found == {("a", "b"): (0, 2, 2), ("a", "c"): (1, 1, 3), ("b", "c"): (1, 1, 1)}
    assert result.faithful["a"].percent is None and result.faithful["a"].total == 0


def test_several_raters_of_a_dialogue_count_as_one_observation() -> None:
    tuned, base, tie = ({"d": Rating(frozenset(best))} for best in ("t", "b", "bt"))
    for raters, expected in (
        ([tuned, tuned, base], (1, 0, 0)),
        ([tuned, tie, tie], (1, 0, 0)),  # one prefers tuned and none base
        ([tuned, base], (0, 1, 0)),
        ([base, base, tuned, tie], (0, 0, 1)),
    ):
        named = {str(n): rater for n, rater in enumerate(raters)}
        of = evaluate(named, {"b": "", "t": ""}).together.preferences[0]
        assert (of.wins, of.ties, of.losses) == expected
    only_ties = evaluate({"ana": tie, "bo": tie}, {"b": "", "t": ""})
    assert only_ties.together.preferences[0].p == 1 and only_ties.agreement[0].kappa is None
    assert only_ties.alpha == {"best": None, "faithful": None} and "| - |" in tables(only_ties)


def test_the_interval_excludes_50_percent_exactly_if_p_is_below_5_percent() -> None:
    for total in (1, 5, 6, 8, 17, 39):
        for wins in range(total + 1):
            best = ["t"] * wins + ["b"] * (total - wins)
            rater = {str(n): Rating(frozenset(one)) for n, one in enumerate(best)}
            of = evaluate({"ana": rater}, {"b": "", "t": ""}).together.preferences[0]
            assert of.p == binomtest(wins, total).pvalue
            assert of.win_rate.low is not None and of.win_rate.high is not None
            assert (of.p < 0.05) == (not of.win_rate.low <= 50 <= of.win_rate.high)


@pytest.mark.parametrize(
    ("table", "kappa"),
    [  # yes/yes, yes/no, no/yes, no/no: the three examples of Wikipedia's "Cohen's kappa"
        ((20, 5, 10, 15), 0.4),
        ((45, 15, 25, 15), 0.1304),
        ((25, 35, 5, 35), 0.2593),
        ((10, 0, 0, 10), 1),
        ((0, 10, 10, 0), -1),
        ((10, 0, 0, 0), None),
    ],
)
def test_cohens_kappa(table: tuple[int, ...], kappa: float | None) -> None:
    cells = zip(("yy", "yn", "ny", "nn"), table, strict=True)
    assert cohens_kappa([(c[0], c[1]) for c, count in cells for _ in range(count)]) == kappa


@pytest.mark.parametrize(
    ("raters", "alpha"),
    [  # the examples A, B and C of Krippendorff, "Computing Krippendorff's Alpha-Reliability"
        (["0100000010", "1110010000"], 0.0952),
        (["aabbdcccedda", "babbbccceddd"], 0.692),
        (["123321412...", "1233224125.3", ".3332342251.", "12332441251."], 0.7434),
        (["aaaa", "aaaa"], None),
        (["ab..", "..ab"], None),
        (["abab", "baba"], -0.75),
    ],
)
def test_krippendorffs_alpha(raters: list[str], alpha: float | None) -> None:
    items = [[said for said in column if said != "."] for column in zip(*raters, strict=True)]
    assert krippendorffs_alpha(items) == alpha
