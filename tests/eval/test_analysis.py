"""Figures of systems: means, intervals, comparisons, baselines, mistakes, groups."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.analysis import Settings, analyse
from eval.baselines import Corpus, System, default_pairs, with_baselines
from eval.metrics import METRICS, mean_f1, score
from tests.conftest import ROOT

ROWS = [
    json.loads(line)
    for line in (ROOT / "data_prep/sample/test.jsonl").read_text("utf-8").splitlines()
]
REFERENCES = [row["summary"] for row in ROWS]
DIALOGUES = [row["dialogue"] for row in ROWS]
SETTINGS = Settings(workers=1)


@pytest.fixture(scope="module")
def figures() -> dict:
    half = len(ROWS) // 2
    base = [f"{reference} And so on, and more of it." for reference in REFERENCES]
    tuned = REFERENCES[:half] + ["", *REFERENCES[half + 1 :]]
    systems = {
        "base": System(base, stopped=[False] * len(ROWS), tokens=[9] * len(ROWS)),
        "tuned": System(tuned),
    }
    leaked = [n < 10 for n in range(len(ROWS))]
    corpus = Corpus(REFERENCES, DIALOGUES, leaked)
    return analyse(with_baselines(systems, corpus), corpus, SETTINGS).figures


def test_scores_are_rouges_and_lie_in_their_interval(figures: dict) -> None:
    assert list(figures["systems"]) == ["base", "tuned", "lead-3", "longest-3", "base-cut"]
    lead = figures["systems"]["lead-3"]["scores"]
    expected = mean_f1(score(["\n".join(d.splitlines()[:3]) for d in DIALOGUES], REFERENCES))
    assert {metric: lead[metric]["f1"] for metric in METRICS} == pytest.approx(expected, abs=1e-4)
    for system in figures["systems"].values():
        for values in system["scores"].values():
            assert values["low"] <= values["f1"] <= values["high"]


def test_an_empty_prediction_counts_with_zero(figures: dict) -> None:
    tuned = figures["systems"]["tuned"]
    share = 100 * (len(ROWS) - 1) / len(ROWS)
    assert tuned["scores"]["rougeL"]["f1"] == pytest.approx(share)
    assert tuned["mistakes"]["empty"] == 1
    assert tuned["scores_without_leaked"]["examples"] == len(ROWS) - 10
    assert tuned["scores_without_leaked"]["rougeL"] < tuned["scores"]["rougeL"]["f1"]


def test_what_cannot_be_known_is_null_not_zero(figures: dict) -> None:
    assert figures["systems"]["base"]["mistakes"]["token_limit"] == len(ROWS)
    assert figures["systems"]["tuned"]["mistakes"]["token_limit"] is None
    bare = analyse({"a": System(REFERENCES)}, Corpus(REFERENCES), SETTINGS).figures
    assert bare["systems"]["a"]["mistakes"]["unknown_name"] is None
    assert bare["leaked"] is None and bare["groups"] == {} and bare["comparisons"] == []


def test_the_base_model_cut_to_the_tuned_length_wins_the_verbosity_back(figures: dict) -> None:
    # but for the one empty summary, each base summary is the reference with more words after it
    cut = figures["systems"]["base-cut"]["scores"]["rougeL"]
    assert cut["f1"] == pytest.approx(figures["systems"]["tuned"]["scores"]["rougeL"]["f1"])
    assert figures["systems"]["base"]["style"]["length_ratio"] > 1.2


def test_comparisons_say_who_is_better_and_how_often(figures: dict) -> None:
    pairs = {tuple(pair["systems"]): pair for pair in figures["comparisons"]}
    assert list(pairs) == [
        ("base", "tuned"), ("lead-3", "tuned"), ("longest-3", "tuned"), ("base-cut", "tuned"),
    ]  # fmt: skip
    gain = pairs["base", "tuned"]
    assert (gain["better"], gain["worse"], gain["equal"]) == (len(ROWS) - 1, 1, 0)
    test = gain["metrics"]["rougeL"]
    assert test["low"] < test["difference"] < test["high"]
    assert test["p_randomization"] < 0.01
    same = pairs["base-cut", "tuned"]
    assert same["metrics"]["rougeL"]["p_randomization"] == 1.0
    assert same["equal"] == len(ROWS)


def test_groups_hold_every_dialogue_once(figures: dict) -> None:
    assert set(figures["groups"]) == {"words", "turns", "speakers"}
    for bins in figures["groups"].values():
        assert sum(one["examples"] for one in bins) == len(ROWS)
    mean = np.average(
        [one["rougeL"]["tuned"] for one in figures["groups"]["turns"]],
        weights=[one["examples"] for one in figures["groups"]["turns"]],
    )
    assert mean == pytest.approx(figures["systems"]["tuned"]["scores"]["rougeL"]["f1"], abs=1e-3)


def test_pairs_of_other_systems() -> None:
    systems = {"a": System([]), "b": System([]), "c": System([]), "lead-3": System([], "baseline")}
    assert default_pairs(systems) == [("a", "b"), ("a", "c"), ("b", "c"), ("lead-3", "c")]


def test_figures_are_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    predictions = [*REFERENCES, *DIALOGUES] * 7
    references = [*DIALOGUES, *REFERENCES] * 7
    one, two, three = (score(predictions, references, workers) for workers in (1, 2, 3))
    assert len(one) > 500 and np.array_equal(one, two) and np.array_equal(one, three)
