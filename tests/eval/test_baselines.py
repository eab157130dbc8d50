"""Baselines and style, checked by hand and on the sample corpus."""

import pytest

from eval.baselines import Corpus, System, add_baselines, cut, lead, longest, style
from eval.scores import Style
from tests.eval.report_data import sample

CHAT = (
    "Ola: hi\r\n\r\nPiet: the bus is late again\nOla: oh no\n  Ola: so what do we do now\nPiet: ok"
)


def test_lead_is_the_first_turns_with_their_speakers() -> None:
    assert lead(CHAT) == "Ola: hi\nPiet: the bus is late again\nOla: oh no"
    assert lead(CHAT, turns=1) == "Ola: hi"
    assert lead("") == lead(" \r\n ") == ""


def test_longest_keeps_the_order_and_prefers_earlier_turns() -> None:
    assert longest(CHAT, turns=2) == "Piet: the bus is late again\nOla: so what do we do now"
    assert longest(CHAT) == "Piet: the bus is late again\nOla: oh no\nOla: so what do we do now"
    assert longest("A: b c\nD: e f\nG: h i", turns=1) == "A: b c"
    assert longest(CHAT, turns=99).count("\n") == 4 and longest("") == ""


def test_cut_counts_words_and_keeps_white_space() -> None:
    assert cut(" Ola  is\nlate again. ", 3) == " Ola  is\nlate"
    assert cut("Ola is late ", 3) == "Ola is late " and cut("Ola is", 9) == "Ola is"
    assert cut("Ola is", 0) == cut("", 3) == ""


def test_base_cut_is_as_long_as_tuned() -> None:
    dialogues, summaries = ([row[key] for row in sample()] for key in ("dialogue", "summary"))
    systems = {"base": System(dialogues), "tuned": System(summaries)}
    shortened = add_baselines(systems, Corpus(summaries))["base-cut"].predictions
    for text, whole, summary in zip(shortened, dialogues, summaries, strict=True):
        assert len(text.split()) == min(len(summary.split()), len(whole.split()))
        assert whole.startswith(text)


def test_style_by_hand() -> None:
    # 6 words; references 4, dialogues 8; of "a b c d" and "b c d e", only the first is copied
    found = style(["A b, c d e", "q"], ["a b c", "q"], ["a b c d f", "r s t"])
    assert found == Style(words=3, length_ratio=1.5, compression=0.75, copied_4grams=0.5)
    assert style(["a b"], ["a"]).compression is style(["a b"], ["a"]).copied_4grams is None


def test_style_of_nothing_is_none_not_zero() -> None:
    empty = {"length_ratio": None, "compression": None, "copied_4grams": None}
    assert style([], [], []) == Style(words=None, **empty)
    assert style(["", "😀"], ["", ""], ["", ""]) == Style(words=0, **empty)
    with pytest.raises(ValueError, match="predictions for|shorter"):
        style(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="predictions for|shorter"):
        style(["a", "b"], ["a", "b"], ["a"])
