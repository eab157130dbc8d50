"""Summaries that need no model, and what tells a copy from a summary.

Use: `lead(dialogue)`, `longest(dialogue)`, `cut(prediction, 20)`, `style(predictions, references)`.
A model that does not beat the first three turns, or its base model cut short, learnt no more.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rouge_score.tokenize import tokenize

from eval import diagnosis

NGRAM = 4


BASELINES = {
    "lead-3": "the first three turns of the dialogue",
    "longest-3": "its three longest turns",
    "base-cut": "each summary of base, cut to as many words as that of tuned",
}


class System(NamedTuple):
    """One system's outputs, in the order of the references.

    `stopped` and `tokens` are None where unknown; `fields` adds to the signature.
    """

    predictions: Sequence[str]
    kind: str = "model"
    tokens: Sequence[int] | None = None
    stopped: Sequence[bool] | None = None
    seconds: float | None = None
    fields: dict[str, str] = {}


class Corpus(NamedTuple):
    """What the systems are scored on; `dialogues` and `leaked` (a flag each) may be unknown."""

    references: Sequence[str]
    dialogues: Sequence[str] | None = None
    leaked: Sequence[bool] | None = None


def lead(dialogue: str, turns: int = 3) -> str:
    """The first `turns` turns, one a line, with the speakers' names.

    LEAD-3 of the SAMSum paper (Gliwa et al., 2019). The names are kept: with them, the 819 test
    dialogues give ROUGE-1/2/L 31.31/8.68/24.17; without, only 23.90/9.18/19.73. What joins the
    turns changes rougeLsum alone, which takes each line as a sentence.
    """
    return "\n".join(diagnosis.turns(dialogue)[:turns])


def longest(dialogue: str, turns: int = 3) -> str:
    """The `turns` turns of most words, in the dialogue's order; of equals, the earlier."""
    every = diagnosis.turns(dialogue)
    ranked = sorted(range(len(every)), key=lambda place: -len(every[place].split()))
    return "\n".join(every[place] for place in sorted(ranked[:turns]))


def cut(prediction: str, words: int) -> str:
    """The first `words` words of a text, parted by white space; a shorter text as it is."""
    parts = prediction.split(maxsplit=words)
    return prediction if len(parts) <= words else prediction[: -len(parts[-1])].rstrip()


def cut_to_lengths(predictions: Sequence[str], lengths: Sequence[int]) -> list[str]:
    """Each prediction cut to its own number of words, as that of another system's.

    Raises ValueError where the two differ in number.
    """
    return [cut(text, words) for text, words in zip(predictions, lengths, strict=True)]


def style(
    predictions: Sequence[str], references: Sequence[str], dialogues: Sequence[str] | None = None
) -> dict[str, float | None]:
    """How long the predictions are and how much of them is copied, over all examples together.

    words: mean words of a prediction. length_ratio, compression: all words of the predictions by
    all those of the references, of the dialogues. copied_4grams: the share of the predictions'
    4-grams that stand in their dialogue (Grusky et al., 2018; See et al., 2017). None where there
    is nothing to divide by, or no dialogues. Words are those that ROUGE counts (lower-case runs of
    a-z and 0-9), not stemmed; a dialogue's hold the speakers' names and run on over its turns.
    Raises ValueError where the lists differ in number.
    """
    predicted = [tokenize(text, None) for text in predictions]
    total = sum(map(len, predicted))
    expected = sum(len(tokenize(text, None)) for _, text in _pairs(predicted, references))
    result: dict[str, float | None] = {
        "words": _ratio(total, len(predicted)),
        "length_ratio": _ratio(total, expected),
        "compression": None,
        "copied_4grams": None,
    }
    if dialogues is not None:
        pairs = [(words, tokenize(text, None)) for words, text in _pairs(predicted, dialogues)]
        copied = sum(len(_copied(words, source)) for words, source in pairs)
        ngrams = sum(len(_ngrams(words)) for words in predicted)
        result["compression"] = _ratio(total, sum(len(source) for _, source in pairs))
        result["copied_4grams"] = _ratio(copied, ngrams)
    return result


def _pairs(predicted: list[list[str]], texts: Sequence[str]) -> list[tuple[list[str], str]]:
    return list(zip(predicted, texts, strict=True))


def _copied(words: list[str], source: list[str]) -> list[tuple[str, ...]]:
    """The 4-grams of a prediction, each as often as it stands there, that the source has too."""
    known = set(_ngrams(source))
    return [ngram for ngram in _ngrams(words) if ngram in known]


def _ngrams(words: list[str]) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def with_baselines(systems: dict[str, System], corpus: Corpus) -> dict[str, System]:
    """The systems, then what they are to be judged by: LEAD-3, LONGEST-3, the base model cut.

    The first two need dialogues; the third needs systems named `base` and `tuned`.
    """
    more = dict(systems)
    if corpus.dialogues is not None:
        more["lead-3"] = System([lead(text) for text in corpus.dialogues], "baseline")
        more["longest-3"] = System([longest(text) for text in corpus.dialogues], "baseline")
    if {"base", "tuned"} <= systems.keys():
        lengths = [len(text.split()) for text in systems["tuned"].predictions]
        cut = cut_to_lengths(systems["base"].predictions, lengths)
        more["base-cut"] = System(cut, "baseline")
    return more


def default_pairs(systems: dict[str, System]) -> list[tuple[str, str]]:
    """Every two models; then each baseline against the last model, which is the tuned one."""
    models = [name for name, system in systems.items() if system.kind == "model"]
    pairs = [(a, b) for n, a in enumerate(models) for b in models[n + 1 :]]
    return pairs + [(name, models[-1]) for name in systems if name not in models]
