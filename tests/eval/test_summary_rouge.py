"""The module for `evaluate`: loaded from disk without the Hub, it scores like `eval.metrics`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import evaluate
import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import BootstrapAggregator
from sentencex import segment

from eval.baselines import lead
from eval.metrics import METRICS, mean_f1, score
from tests.conftest import ROOT
from tests.eval.report_data import sample

REFERENCES = [row["summary"] for row in sample()]
PREDICTIONS = ["", *(lead(row["dialogue"]) for row in sample()[1:])]


@pytest.fixture
def metric(monkeypatch: pytest.MonkeyPatch) -> Iterator[evaluate.Metric]:
    """The module as the README loads it: by its path in the repository, offline."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    yield evaluate.load("eval/summary_rouge")


def test_figures_equal_those_of_eval_metrics(metric: evaluate.Metric) -> None:
    found = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    means = mean_f1(score(PREDICTIONS, REFERENCES))
    assert tuple(found) == METRICS and 0 < found["rouge2"] < found["rougeL"] < 1
    assert found == pytest.approx({metric: percent / 100 for metric, percent in means.items()})
    assert found["rougeLsum"] > found["rougeL"]  # the turns are lines


def test_batches_add_up_and_one_reference_may_be_in_a_list(metric: evaluate.Metric) -> None:
    whole = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    for start in range(0, len(REFERENCES), 16):
        part = slice(start, start + 16)
        listed: list[str | list[str]] = [[text] for text in REFERENCES[part]]
        metric.add_batch(
            predictions=PREDICTIONS[part], references=REFERENCES[part] if start else listed
        )
    assert metric.compute() == whole
    for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True):
        metric.add(predictions=prediction, references=reference)
    assert metric.compute() == whole


def test_several_references_and_other_languages(metric: evaluate.Metric) -> None:
    found = metric.compute(predictions=["a b", "c d"], references=[["x", "a b"], "c d"])
    assert found == dict.fromkeys(METRICS, 1.0)
    german = metric.compute(predictions=["Häuser"], references=["Haus"], language="de")
    assert german["rouge1"] == 1.0
    strict = metric.compute(
        predictions=["Häuser"], references=["Haus"], language="de", stemmer="none"
    )
    assert strict["rouge1"] == 0.0
    marked = {"predictions": ["<think>x</think>a b"], "references": ["a b"]}
    with pytest.warns(UserWarning, match="strip=True"):
        assert metric.compute(**marked)["rouge1"] < 1
    assert metric.compute(**marked, strip=True)["rouge1"] == 1.0


def test_it_loads_from_any_folder(tmp_path: Path) -> None:
    code = """
import importlib.resources, evaluate
rouge = evaluate.load(str(importlib.resources.files("eval") / "summary_rouge"))
print(rouge.compute(predictions=["Ann calls Bo."], references=["Bo calls Ann."]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "HF_EVALUATE_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    means = mean_f1(score(["Ann calls Bo."], ["Bo calls Ann."]))
    assert f"'rougeL': {means['rougeL'] / 100}" in done.stdout.replace("np.float64(", "")


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a", "b"], ["a", ["b", 3]], "expected a string, or a list of them"),
        (["a", "b"], ["a", []], "expected a string, or a list of them"),
        (["a", 4], ["a", "b"], "expected a string, or a list of them"),
        (["a", "b"], ["a", 3], "expected a string, or a list of them"),
        (["a", "b"], ["a"], r"Mismatch .* predictions \(2\) and references \(1\)"),
        ([], [], "no examples"),
        (["a"], None, "both predictions and references"),
    ],
)
def test_bad_input(
    metric: evaluate.Metric, predictions: list, references: list | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=predictions, references=references)


def test_the_mean_is_near_the_bootstrap_middle_of_the_standard_rouge(
    metric: evaluate.Metric,
) -> None:
    np.random.seed(0)  # what evaluate's own rouge module does, written with rouge_score
    aggregator = BootstrapAggregator()
    scorer = RougeScorer(METRICS, use_stemmer=True)
    for reference, prediction in zip(REFERENCES, PREDICTIONS, strict=True):
        texts = ["\n".join(segment("en", text)) for text in (reference, prediction)]
        aggregator.add_scores(scorer.score(*texts))
    middle = {name: value.mid.fmeasure for name, value in aggregator.aggregate().items()}
    found = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert found == pytest.approx(middle, abs=0.002)
