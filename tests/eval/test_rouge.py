"""The scorer: a published system's figures, empty predictions, and what each metric sees."""

import re

import pytest

from eval.metrics import METRICS, mean_f1, score
from tests.conftest import PUBLISHED


def test_published_bart_large_gives_its_known_figures() -> None:
    if not PUBLISHED.is_file():
        pytest.skip("../shared/data/published is absent: corpus text is not in this repository")
    text = PUBLISHED.read_text("utf-8")
    parts = re.split(r"^(dialogue|reference|candidate):\s*\n-+\n", text, flags=re.M)
    by_name: dict[str, list[str]] = {"dialogue": [], "reference": [], "candidate": []}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        by_name[name].append(body.strip())
    assert len(by_name["candidate"]) == len(by_name["reference"]) == 819
    assert not any(text.startswith("--") for text in by_name["candidate"])
    means = mean_f1(score(by_name["candidate"], by_name["reference"]))
    expected = {"rouge1": 52.61, "rouge2": 27.39, "rougeL": 43.09, "rougeLsum": 43.09}
    assert means == pytest.approx(expected, abs=0.01)


def test_f1_by_hand() -> None:
    # 3 of 4 words and 2 of 3 word pairs of "Anna will call Tom" are in the prediction of 3 words
    (example,) = score(["Anna will call."], ["Anna will call Tom"])
    assert example.shape == (len(METRICS), 3)
    assert example[0] == pytest.approx([1.0, 0.75, 2 * 1.0 * 0.75 / 1.75])
    assert example[1] == pytest.approx([1.0, 2 / 3, 2 * 1.0 * (2 / 3) / (1 + 2 / 3)])
    assert example[2] == pytest.approx(example[0])


def test_stemmer_is_on_and_lines_are_sentences_for_lsum_only() -> None:
    stemmed = mean_f1(score(["They were meeting"], ["they were meetings"]))
    assert stemmed["rouge1"] == 100.0
    swapped = mean_f1(score(["cat sat\ndog ran"], ["dog ran\ncat sat"]))
    assert swapped["rougeLsum"] == 100.0 and swapped["rougeL"] == 50.0


def test_empty_prediction_counts_as_zero() -> None:
    means = mean_f1(score(["", "Anna left"], ["Anna left", "Anna left"]))
    assert means == {metric: 50.0 for metric in METRICS}


def test_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        score(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="no examples"):
        mean_f1(score([], []))
