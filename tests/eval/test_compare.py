"""eval.compare: what it reads, refuses, tests and marks, and how long it takes."""

import csv
import json
import re
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape
from safetensors.torch import load_file

from data_prep.errors import UserError
from data_prep.settings import Rouge
from eval.analysis import compare_pairs
from eval.compare import compare, holm, html, shortened
from eval.metrics import METRICS
from eval.scores import Bootstrap, Scores
from eval.stats import paired_tests
from tests.conftest import ROOT, run_module
from tests.eval.report_data import sample
from tests.eval.test_score import jsonl
from tests.run_records import NAME


def outputs(folder: Path, name: str, words: int) -> Path:
    """Write a run whose predictions are the first `words` words of each reference."""
    rows = [
        {
            "id": row["id"], "dialogue": row["dialogue"], "reference": row["summary"],
            "prediction": " ".join(row["summary"].split()[:words]),
        }
        for row in sample()
    ]  # fmt: skip
    return jsonl(folder / f"{name}.jsonl", rows)


def test_every_pair_is_tested_and_a_significant_best_is_marked(
    tmp_path: Path,
) -> None:
    names = {"short": 3, "long": 12, "longer": 13}
    compared = compare([f"{name}={outputs(tmp_path, name, n)}" for name, n in names.items()])
    pairs = [("short", "long"), ("short", "longer"), ("long", "longer")]
    assert [pair.systems for pair in compared.scores.comparisons] == pairs
    values = compared.analysis.values
    for pair in compared.scores.comparisons:
        first, second = (values[name] for name in pair.systems)
        assert list(pair.metrics.values()) == paired_tests(first, second, Bootstrap())
    raw = [
        max(pair.metrics["rougeL"].p_bootstrap, pair.metrics["rougeL"].p_randomization)
        for pair in compared.scores.comparisons
    ]
    assert list(compared.p["rougeL"].values()) == holm(raw)
    assert compared.best["rougeL"] == "longer"
    same = compare([f"a={outputs(tmp_path, 'a', 9)}", f"b={outputs(tmp_path, 'b', 9)}"])
    assert set(same.best.values()) == {None} and "no run is the best" in same.verdicts()[0]
    assert "beats the strongest baseline, longest-3 (+" in same.verdicts()[-1]
    assert "**" not in same.forms()["Markdown"] and "textbf" not in same.forms()["LaTeX"]


def test_long_settings_are_shortened_to_the_part_that_differs() -> None:
    one, other = ("Summarize this dialogue in " + word for word in ("two", "three"))
    found = shortened([one + " short sentences.", other + " sentences, please.", "-"])
    assert found == ["…gue in two short sentences.", "…gue in three sentences, please.", "-"]
    assert shortened(["0.1", "0.2"]) == ["0.1", "0.2"]


def test_a_clear_best_of_many_runs_is_called_the_best(tmp_path: Path) -> None:
    """With only 1,000 resamples, Holm's p for 55 pairs could not be below 0.05."""
    best = outputs(tmp_path, "best", 20)
    others = [f"r{n}={outputs(tmp_path, f'r{n}', n % 4)}" for n in range(10)]
    assert compare([f"best={best}", *others]).best["rougeL"] == "best"


def test_names_are_escaped_in_every_form(tmp_path: Path) -> None:
    names = ("[a] <b>", "c|*d*_%")
    compared = compare(
        [f"{name}={outputs(tmp_path, str(n), n + 3)}" for n, name in enumerate(names)]
    )
    assert "\n{[}a] \\textless{}b\\textgreater{} & " in compared.forms()["LaTeX"]
    text = compared.forms()["Markdown"]
    assert "<b>" not in text and len({line.count(" | ") for line in text.splitlines()[:4]}) <= 2
    page = html(compared, tmp_path)
    assert 'value="0:missing_speaker"' in page and "<b>" not in re.sub("<b>[A-Z]", "", page)


def test_holm_by_hand() -> None:
    # 0.005 x 4, 0.01 x 3, 0.03 x 2; 0.04 x 1 is below the one before it, so it takes that value
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([0.02]) == [0.02]


@pytest.fixture
def two_results(run: Path) -> list[Path]:
    """Results of two recipes on the same dialogues, with different learning rates and prompts."""
    first, second = Path(f"results/{NAME}"), Path("results/other")
    shutil.copytree(first, second)
    scores = json.loads((second / "scores.json").read_text("utf-8"))
    scores["settings"] |= {
        "learning_rate": 0.5,
        "summarization.instruction": "Shorter:\n{dialogue}",
    }
    scores["training"] = {"minutes": 3.0, "peak_memory_gb": 1.25}
    scores["decoding"]["num_beams"] = 4  # in the evaluation; the training recipe has 1
    (second / "scores.json").write_text(json.dumps(scores), "utf-8")
    return [first, second]


def test_recipes_folders_and_files_are_compared_with_settings(
    two_results: list[Path],
) -> None:
    base = two_results[0] / "predictions.base.jsonl"
    compared = compare([f"{NAME}.yml", two_results[1], base])
    assert [run.name for run in compared.runs] == [NAME, "other", "base"]
    assert compared.settings["learning_rate"] == ["0.001", "0.5", "-"]  # base was not trained
    assert compared.settings["instruction"][1] == "Shorter:\n{dialogue}"
    assert compared.settings["model"] == ["tuned", "tuned", "base"]
    assert compared.settings["decoding.num_beams"] == ["1", "4", "1"]
    assert len(compared.settings) == 4  # without settings that only the untrained base model lacks
    lone = shutil.copy(base, two_results[0].parent / "lone.jsonl")
    assert compare([two_results[0], lone]).settings == {}  # nothing is known about the second
    assert compare([*two_results, lone]).settings["learning_rate"] == ["0.001", "0.5", "-"]
    minutes = [row["minutes"].text for row in compared.table()[:3]]
    assert minutes == ["1.39", "3.00", "-"]
    assert compared.table()[1]["memory (GB)"].text == "1.25"
    record = Scores.read(two_results[0] / "scores.json")
    weights = load_file(f"outputs/{NAME}/adapter_model.safetensors").values()
    assert record.training and record.training.steps == 40
    assert record.training.parameters == sum(tensor.numel() for tensor in weights) > 0
    recorded = record.systems["tuned"].scores
    assert compared.scores.systems[NAME].scores == recorded
    rows = list(csv.DictReader(compared.forms()["CSV"].splitlines()))
    assert float(rows[0]["rougeL"]) == recorded["rougeL"].f1 and rows[1]["learning_rate"] == "0.5"
    text = compared.forms()["LaTeX"]
    assert text.startswith("\\begin{tabular}{l") and "learning\\_rate" in text
    assert text.count(r"\\") == text.count("\n") - 5  # every row ends with \\, rules do not
    page = html(compared, Path("results"))
    assert len(re.findall('<tr class="model[ "]', page)) == 3 and "Shorter:\n{dialogue}" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    first_columns = ["run", "ROUGE-L", "p against tiny_run", "ROUGE-1"]
    assert re.findall(r'<th scope="col">(.*?)</th>', page)[:4] == first_columns
    assert f'href="{NAME}/report.html">{NAME}/report.html<' in page
    for text in compared.forms().values():
        assert f'data-text="{escape(text)}"' in page
    assert f'<time datetime="{datetime.now(UTC).date()}"' in page


def test_runs_that_cannot_be_compared_are_refused(two_results: list[Path], tmp_path: Path) -> None:
    def message(*runs: object) -> str:
        with pytest.raises(UserError) as caught:
            compare([str(run) for run in runs])
        return str(caught.value)

    first, second = two_results
    assert "give two runs or more" in message(first)
    assert "no such results (results/none)" in message(first, "none.yml")
    assert "write NAME=" in message(f"a={first}", f"a={second}")
    (tmp_path / "empty").mkdir()
    assert "has no predictions; run `python -m eval.run`" in message(first, tmp_path / "empty")
    file, saved = second / "scores.json", (second / "scores.json").read_text("utf-8")

    def changed(**keys: object) -> None:
        file.write_text(json.dumps(json.loads(saved) | keys), "utf-8")

    changed(split="validation")
    assert "differ in split" in (said := message(first, second)) and "validation" in said
    changed(rouge={"tokenizer": "english", "stemmer": "porter", "lsum": "lines"})
    assert "differ in lsum" in (said := message(first, second)) and "--lsum sentences" in said
    compared = compare([first, second], lsum="sentences")  # the fix works and changes nothing else
    assert compared.scores.rouge == Rouge(tokenizer="english", stemmer="porter")
    changed(version=2, rouge=None, settings={})  # a record from before `lsum: sentences`
    assert "differ in lsum" in message(first, second)
    assert compare([first, second], lsum="sentences").settings == {}
    changed(language="de")
    assert "differ in language" in message(first, second)
    assert compare([first, second], language="de").scores.language == "de"
    assert "is given twice" in message(first, first)
    file.write_text(saved, "utf-8")
    rows = (second / "predictions.tuned.jsonl").read_text("utf-8").splitlines()
    other = [{**json.loads(row), "reference": "Another."} for row in rows]
    jsonl(second / "predictions.tuned.jsonl", other)
    assert "cannot be compared: refs: " in message(first, second)


def test_the_command_writes_every_form(two_results: list[Path], tmp_path: Path) -> None:
    files = [tmp_path / f"t.{kind}" for kind in ("html", "csv", "tex", "md")]
    flags = ("--output", "--csv", "--latex", "--markdown")
    options = [part for pair in zip(flags, files, strict=True) for part in pair]
    done = run_module("eval.compare", *two_results, *options, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("run ") and "other - tiny_run" in done.stdout
    assert all(path.stat().st_size > 300 for path in files)
    wrong = run_module("eval.compare", two_results[0], "gone", cwd=Path.cwd())
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1


def test_the_code_in_the_docs_runs(two_results: list[Path], capsys: pytest.CaptureFixture) -> None:
    text = (ROOT / "docs/scoring.md").read_text("utf-8").split("## From Python")[1]
    code = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
    assert len([line for line in code.splitlines() if line]) == 5
    folder = Path("results/smollm2_samsum")
    shutil.copytree(two_results[0], folder)
    shutil.copytree(two_results[1], folder / "adapter-rate-0.002")
    exec(code, {})
    first, second = capsys.readouterr().out.splitlines()
    assert float(first) == pytest.approx(200 / 3, abs=0.01)  # two of three words match on each side
    assert "no run is the best" in second


def test_ten_pairs_of_the_whole_test_set_take_under_ten_seconds() -> None:
    generator = np.random.default_rng(0)
    values = {f"run{n}": generator.random((819, 6)) for n in range(5)}
    names = [*METRICS, "similarity", "sixth"]
    pairs = [(f"run{a}", f"run{b}") for a in range(5) for b in range(a + 1, 5)]
    start = time.perf_counter()
    found = compare_pairs(pairs, values, names, Bootstrap())
    assert time.perf_counter() - start < 10 and len(found) == 10
    one = paired_tests(values["run1"], values["run3"], Bootstrap())
    assert list(found[pairs.index(("run1", "run3"))].metrics.values()) == one
