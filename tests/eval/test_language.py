"""Words, stems and sentences of many languages; copies score 100, English is rouge_score's."""

import random
import unicodedata

import numpy as np
import pytest
from pydantic import ValidationError
from rouge_score.rouge_scorer import RougeScorer

from data_prep.settings import Rouge
from eval.language import Scoring, count_letters, resolve, warnings, word_ends
from eval.metrics import F1, METRICS, mean_f1, score
from tests.eval.report_data import sample

WORDS = {  # as readers see them; in scripts without spaces, characters
    "Łucja pożyczy żółty rower": ["łucja", "pożyczy", "żółty", "rower"],
    "Ёлка стоит.": ["ёлка", "стоит"],
    "玛拉借了A4纸。": ["玛", "拉", "借", "了", "a4", "纸"],
    "コーヒーを飲む": ["コ", "ー", "ヒ", "ー", "を", "飲", "む"],
    "한국어 요약": ["한국어", "요약"],
    "วันนี้": ["วั", "น", "นี้"],
    "हिंदी में": ["हिंदी", "में"],
    "كتابٌ جديد": ["كتابٌ", "جديد"],
    "می\u200cروم": ["می\u200cروم"],
    "José's café": ["josé", "s", "café"],
    "ＡＢ１２ ①": ["ab12", "1"],
    "e\u0301te\u0301 = été": ["été", "été"],
    "👋🏽 … — ": [],
}
TEXTS = {
    "zh": ["玛拉周五借了托比的梯子。他们很高兴。", "莉娜下午三点在车站等欧文。"],
    "ja": ["マラはトビのはしごを借りた。", "二人は土曜日に会う。"],
    "th": ["มาลาขอยืมบันได", "พบกันวันเสาร์"],
    "ru": ["Мара берёт у Тоби лестницу. Он рад.", "Лина ждёт на вокзале."],
    "pl": ["Łucja pożyczy żółty rower.", "Święta spędzą w górach."],
    "el": ["Η Μάρα δανείζεται τη σκάλα.", "Η Λίνα περιμένει."],
    "ar": ["استعارت مارا السلم من توبي.", "تنتظر لينا في المحطة."],
    "hi": ["मारा ने सीढ़ी उधार ली।", "लीना स्टेशन पर है।"],
    "ko": ["마라가 사다리를 빌렸다.", "리나는 역에서 기다린다."],
}


@pytest.mark.parametrize("text", WORDS)
def test_words_of_every_script(text: str) -> None:
    assert Scoring("unicode", "none").tokenize(text) == WORDS[text]


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("named", [True, False])
def test_a_copy_scores_100_and_another_text_does_not(language: str, named: bool) -> None:
    texts = TEXTS[language]
    scoring = resolve(Rouge(), language if named else "en", [[text] for text in texts])
    assert scoring.tokenizer == "unicode"
    assert mean_f1(score(texts, texts, scoring=scoring)) == dict.fromkeys(METRICS, 100.0)
    assert mean_f1(score(texts, texts)) == dict.fromkeys(METRICS, 100.0)
    assert mean_f1(score(texts[::-1], texts, scoring=scoring))["rouge2"] < 20


def test_english_equals_rouge_score_to_the_last_digit() -> None:
    rows = sample()
    predictions = [row["dialogue"] for row in rows]
    references = [row["summary"] for row in rows]
    scorer = RougeScorer(METRICS[:3], use_stemmer=True)
    theirs = [
        [scorer.score(reference, prediction)[metric].fmeasure for metric in METRICS[:3]]
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    ours = score(predictions, references)[:, :3, F1]
    assert np.array_equal(ours, np.array(theirs))


def test_choices_of_auto() -> None:
    english, german = (
        [["They meet José at noon, and then go home to the others."]],
        [["Früh über Köln geflogen, schöne Grüße."]],
    )
    assert resolve(Rouge(), "en", english) == Scoring("english", "porter")
    assert resolve(Rouge(), "en", german) == Scoring("unicode", "none")
    assert resolve(Rouge(), "de", english) == Scoring("unicode", "german", language="de")
    assert resolve(Rouge(stemmer="none"), "ru", english).stemmer == "none"
    assert resolve(Rouge(tokenizer="english"), "de", german).stemmer == "porter"
    assert resolve(Rouge(tokenizer="unicode"), "en", english) == Scoring("unicode", "porter")
    assert resolve(Rouge(), "zh", [["他们"]]).stemmer == "none"
    assert resolve(Rouge(), "en", [["他来"]]).tokenizer == "unicode"  # few letters, none Latin
    assert resolve(Rouge(), "en", [["José"]]).tokenizer == "english"
    assert resolve(Rouge(stemmer="german"), "en", english).tokenizer == "unicode"
    assert Scoring("unicode", "none", language="tr").words("IŞIK İki") == ["ışık", "iki"]
    assert count_letters(["abc", "дом"]) == (3, 6) and count_letters(["1 2 3"]) == (0, 0)


def test_stems_of_another_language() -> None:
    german = Scoring("unicode", "german", language="de")
    assert german.tokenize("Häuser Haus") == ["haus", "haus"]
    assert german.fields()["stem"].startswith("german-snowball-")
    means = mean_f1(score(["Die Häuser brennen"], ["das Haus brennt"], scoring=german))
    assert means["rouge1"] == pytest.approx(100 / 3)  # only Haus: "brennt" and "brenn" differ


def test_a_tokenizer_that_ignores_letters_gives_a_warning() -> None:
    english = Scoring()
    (note,) = warnings(english, {"the references": ["Мара берёт"], "x's summaries": ["fine"]})
    assert "100% of the letters of the references are ignored" in note and "unicode" in note
    assert warnings(english, {"the references": ["only one é in these ten letters"]}) == []
    assert "--language" in warnings(Scoring("unicode", "none"), {"the references": ["Я"]})[0]
    assert warnings(Scoring("unicode", "russian", language="ru"), {"it": ["Я"]}) == []


@pytest.mark.parametrize(
    "wrong",
    [{"stemmer": "klingon"}, {"tokenizer": "english", "stemmer": "german"}, {"lsum": "words"}],
)
def test_invalid_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        Rouge(**wrong)


def test_splitting_sentences_never_loses_a_letter_or_crashes() -> None:
    """The splitter of sentencex 1.0.32 panics on some kinds of white space before a full stop."""
    assert (
        Scoring().split("Dr. Ann left. Bo (3.5 p.m.) stays!")
        == "Dr. Ann left. \nBo (3.5 p.m.) stays!"
    )
    assert Scoring().split("玛拉借了。他们。") == "玛拉借了。\n他们。"
    letters = [chr(n) for n in range(0x3100) if unicodedata.category(chr(n)) not in ("Cs", "Cn")]
    choose = random.Random(3).choice
    for _ in range(3000):
        text = "".join(choose((choose(letters), "A", ".", " ")) for _ in range(12))
        for language in ("en", "de", "zh", "xx"):
            split = Scoring(language=language).split(text)
            assert "".join(split.split()) == "".join(text.split())


def test_word_ends() -> None:
    text = "Ann: it's 10:30, ok?\n  Bo (yes)"
    assert [text[:end].split()[-1] for end in word_ends(text)] == text.split()
    assert len(word_ends("玛拉借了梯子。")) == 7  # six characters and the full stop
