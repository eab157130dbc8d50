"""Baselines and style: by hand, on the sample corpus, and LEAD-3's published figures."""

import json

import pytest
from rouge_score.rouge_scorer import RougeScorer

from eval.baselines import cut, cut_to_lengths, lead, longest, style
from tests.conftest import ROOT, SHARED

CHAT = (
    "Ola: hi\r\n\r\nPiet: the bus is late again\nOla: oh no\n  Ola: so what do we do now\nPiet: ok"
)


def sample(split: str = "test") -> list[dict[str, str]]:
    """The rows of a split of the sample corpus."""
    text = (ROOT / f"data_prep/sample/{split}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_lead_is_the_first_turns_with_names() -> None:
    assert lead(CHAT) == "Ola: hi\nPiet: the bus is late again\nOla: oh no"
    assert lead(CHAT, turns=1) == "Ola: hi"
    assert lead("") == lead(" \r\n ") == ""


def test_longest_keeps_the_dialogues_order_and_of_equals_the_earlier() -> None:
    assert longest(CHAT, turns=2) == "Piet: the bus is late again\nOla: so what do we do now"
    assert longest(CHAT) == "Piet: the bus is late again\nOla: oh no\nOla: so what do we do now"
    assert longest("A: b c\nD: e f\nG: h i", turns=1) == "A: b c"
    assert longest(CHAT, turns=99).count("\n") == 4 and longest("") == ""


def test_lead_3_of_samsum_has_its_known_figures() -> None:
    path = SHARED / "samsum/test.json"
    if not path.is_file():
        pytest.skip("../shared/data/samsum is absent: corpus text is not in this repository")
    rows = json.loads(path.read_text("utf-8"))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    scores = [scorer.score(row["summary"], lead(row["dialogue"])) for row in rows]
    means = [100 * sum(s[m].fmeasure for s in scores) / len(rows) for m in scorer.rouge_types]
    assert len(rows) == 819 and means == pytest.approx([31.31, 8.68, 24.17], abs=0.005)


def test_cut_counts_words_and_leaves_the_rest_as_it_is() -> None:
    assert cut(" Ola  is\nlate again. ", 3) == " Ola  is\nlate"
    assert cut("Ola is late ", 3) == "Ola is late " and cut("Ola is", 9) == "Ola is"
    assert cut("Ola is", 0) == cut("", 3) == ""
    assert cut_to_lengths(["a b c", "d e"], [2, 5]) == ["a b", "d e"]
    with pytest.raises(ValueError, match="shorter"):
        cut_to_lengths(["a", "b"], [1])


def test_cut_to_lengths_gives_these_very_lengths_on_the_sample() -> None:
    dialogues = [row["dialogue"] for row in sample()]
    lengths = [len(row["summary"].split()) for row in sample()]
    for text, whole, words in zip(
        cut_to_lengths(dialogues, lengths), dialogues, lengths, strict=True
    ):
        assert len(text.split()) == min(words, len(whole.split())) and whole.startswith(text)


def test_style_by_hand() -> None:
    # 6 words, of 4 and 8; of the 4-grams "a b c d" and "b c d e", the first is copied
    found = style(["A b, c d e", "q"], ["a b c", "q"], ["a b c d f", "r s t"])
    assert found == {
        "words": 3,
        "length_ratio": 6 / 4,
        "compression": 6 / 8,
        "copied_4grams": 1 / 2,
    }
    assert style(["a b"], ["a"])["compression"] is style(["a b"], ["a"])["copied_4grams"] is None


def test_style_tells_copies_from_summaries() -> None:
    rows = sample()
    dialogues, references = ([row[key] for row in rows] for key in ("dialogue", "summary"))
    copied = style([lead(text) for text in dialogues], references, dialogues)
    written = style(references, references, dialogues)
    assert copied["copied_4grams"] == 1 and written["length_ratio"] == 1
    assert written["copied_4grams"] is not None and written["copied_4grams"] < 0.3
    assert style(dialogues, references, dialogues)["compression"] == 1


def test_style_of_nothing_is_none_not_zero() -> None:
    empty = dict.fromkeys(["words", "length_ratio", "compression", "copied_4grams"])
    assert style([], [], []) == empty
    assert style(["", "😀"], ["", ""], ["", ""]) == {**empty, "words": 0}
    with pytest.raises(ValueError, match="shorter"):
        style(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="shorter"):
        style(["a", "b"], ["a", "b"], ["a"])
