"""From outputs to scores.json and report.md: means, comparisons, baselines, mistakes, groups."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import UserError
from eval.analysis import analyse
from eval.baselines import Corpus, System, add_baselines, default_pairs
from eval.diagnosis import MISTAKES
from eval.metrics import METRICS, mean_f1, score
from eval.report import comparison_table, mistake_table, report, table
from eval.results import environment, training_curves
from eval.scores import Scores
from tests.conftest import ROOT
from tests.eval.report_data import report_data, sample

ROWS = sample()
REFERENCES = [row["summary"] for row in ROWS]
DIALOGUES = [row["dialogue"] for row in ROWS]
RECORDED = ROOT / "results/smollm2_samsum_corpus/scores.json"


@pytest.fixture(scope="module")
def scores() -> Scores:
    base = [f"{reference} And so on, and more of it." for reference in REFERENCES]
    systems = {
        "base": System(base, stopped=[False] * len(ROWS), tokens=[9] * len(ROWS)),
        "tuned": System([*REFERENCES[:-1], ""]),
    }
    corpus = Corpus(REFERENCES, DIALOGUES, [n < 10 for n in range(len(ROWS))])
    return analyse(add_baselines(systems, corpus), corpus, workers=1).scores


def test_scores_equal_rouge_and_lie_in_their_interval(scores: Scores) -> None:
    assert list(scores.systems) == ["base", "tuned", "lead-3", "longest-3", "base-cut"]
    lead = scores.systems["lead-3"].scores
    expected = mean_f1(score(["\n".join(d.splitlines()[:3]) for d in DIALOGUES], REFERENCES))
    assert {metric: lead[metric].f1 for metric in METRICS} == pytest.approx(expected, abs=1e-4)
    for system in scores.systems.values():
        for values in system.scores.values():
            assert values.low <= values.f1 <= values.high


def test_an_empty_prediction_scores_zero(scores: Scores) -> None:
    tuned = scores.systems["tuned"]
    assert tuned.scores["rougeL"].f1 == pytest.approx(100 * (len(ROWS) - 1) / len(ROWS))
    assert tuned.mistakes["empty"] == 1
    kept = tuned.scores_without_leaked
    assert kept and kept["examples"] == len(ROWS) - 10
    assert kept["rougeL"] < tuned.scores["rougeL"].f1


def test_unknown_values_are_none_not_zero(scores: Scores) -> None:
    assert scores.systems["base"].mistakes["token_limit"] == len(ROWS)
    assert scores.systems["tuned"].mistakes["token_limit"] is None
    bare = analyse({"a": System(REFERENCES)}, Corpus(REFERENCES), workers=1).scores
    known = {"empty": 0, "loop": 0}
    assert bare.systems["a"].mistakes == {name: known.get(name) for name in MISTAKES}
    assert bare.leaked is None and bare.groups == {} and bare.comparisons == []


def test_comparisons_say_which_system_is_better_and_how_often(scores: Scores) -> None:
    gain, *_, same = scores.comparisons
    assert (gain.better, gain.worse, gain.equal) == (len(ROWS) - 1, 1, 0)
    test = gain.metrics["rougeL"]
    assert test.low < test.difference < test.high and test.p_randomization < 0.01
    assert same.systems == ("base-cut", "tuned") and same.equal == len(ROWS)
    assert same.metrics["rougeL"].p_randomization == 1.0


def test_default_pairs() -> None:
    systems = {"a": System([]), "b": System([]), "c": System([]), "lead-3": System([], "baseline")}
    assert default_pairs(systems) == [("a", "b"), ("a", "c"), ("b", "c"), ("lead-3", "c")]
    systems = {"tuned": System([]), "merged": System([]), "lead-3": System([], "baseline")}
    assert default_pairs(systems) == [("tuned", "merged"), ("lead-3", "tuned")]


def test_every_dialogue_is_in_one_group_of_each_kind(scores: Scores) -> None:
    assert set(scores.groups) == {"words", "turns", "speakers"}
    whole = scores.systems["tuned"].scores["rougeL"].f1
    for bins in scores.groups.values():
        sizes = [one.examples for one in bins]
        mean = np.average([one.rougeL["tuned"] for one in bins], weights=sizes)
        assert sum(sizes) == len(ROWS) and mean == pytest.approx(whole, abs=1e-3)


# ---- scores.json ----


def test_scores_round_trip_and_version_1_can_be_read(scores: Scores, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text(scores.model_dump_json(indent=2), "utf-8")
    assert Scores.read(path) == scores and scores.version == 3
    recorded = Scores.read(RECORDED)
    assert recorded.version == 1 and recorded.systems["tuned"].scores["rougeL"].f1 == 36.2345
    assert recorded.main == "tuned" and recorded.metrics == list(METRICS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 4}, "version: .*4 is newer than 3"),
        ({"systems": {"base": {}}}, "systems.base.kind: "),
        (None, "scores.json: cannot be read"),
    ],
)
def test_unreadable_scores_are_refused(tmp_path: Path, change: dict | None, message: str) -> None:
    path = tmp_path / "scores.json"
    with pytest.raises(UserError, match="scores.json: is missing"):
        Scores.read(path)
    text = RECORDED.read_text("utf-8")
    path.write_text(text[:-9] if change is None else json.dumps(json.loads(text) | change), "utf-8")
    with pytest.raises(UserError, match=message):
        Scores.read(path)


# ---- report.md ----


def test_tables_show_every_system_and_the_gain() -> None:
    result = report_data()
    base, tuned = (result.scores.systems[name] for name in ("base", "tuned"))
    lines = table(result.scores).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| base", "| tuned", "| lead-3", "| longest-3", "| base-cut", "| tuned - base",
    ]  # fmt: skip
    rouge_1 = base.scores["rouge1"]
    assert f"| base | {rouge_1.f1:.2f} [{rouge_1.low:.2f}, {rouge_1.high:.2f}] |" in lines[2]
    gain = tuned.scores["rougeL"].f1 - base.scores["rougeL"].f1
    assert f"| tuned - base | {gain:+.2f} |" in comparison_table(result.scores)
    counts = " | ".join(str(count) for count in base.mistakes.values())
    assert f"| base | {counts} |" in mistake_table(result.scores)
    assert "tuned - base" not in table(report_data(("base",)).scores)


def test_report_escapes_corpus_text_and_shows_scores_without_leaks() -> None:
    corpus = Corpus(["Ann | Bob."] * 2, ["Ann: ```\n# no heading"] * 2, [True, False], ["x|y", "z"])
    systems = {"base": System(["<script>alert(1)</script>"] * 2), "tuned": System(["Ann."] * 2)}
    text = report(analyse(systems, corpus, workers=1))
    assert "### x\\|y" in text and "````text\nAnn: ```\n# no heading\n" in text
    assert "| reference | Ann \\| Bob. |" in text
    assert "<script>" not in text and "\\<script\\>" in text
    assert "## Without the 1 dialogues" in text
    verdict = text.split("\n\n")[1]
    assert "tuned" in verdict and "base" in verdict and "ROUGE-L points" in verdict


# ---- training curves and environment ----


def write_state(folder: Path, *history: dict[str, float]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}), "utf-8")


def test_curves_come_from_the_longest_history(tmp_path: Path) -> None:
    assert training_curves(tmp_path) == {}
    first, rouge = {"step": 5, "loss": 2.0}, {"step": 10, "eval_loss": 1.5, "eval_rougeL": 30.0}
    write_state(tmp_path / "checkpoint-5", first)
    write_state(tmp_path / "checkpoint-10", first, {"step": 10, "loss": 1.8}, rouge)
    (tmp_path / "checkpoint-15").mkdir()
    (tmp_path / "checkpoint-15/trainer_state.json").write_text('{"log_hist', "utf-8")
    assert training_curves(tmp_path) == {
        "loss": [[5, 2.0], [10, 1.8]], "eval_loss": [[10, 1.5]], "eval_rougeL": [[10, 30.0]],
    }  # fmt: skip
    write_state(tmp_path, first, rouge, {"step": 10, "loss": 1.8}, {"step": 10, "eval_loss": 1.4})
    # logged after the last checkpoint
    assert training_curves(tmp_path)["eval_loss"] == [[10, 1.5], [10, 1.4]]


def test_environment_has_versions_and_no_path() -> None:
    found = environment()
    assert {"python", "torch", "rouge_score", "cpu"} <= found.keys()
    assert str(Path.home()) not in str(found) and str(Path.cwd()) not in str(found)
