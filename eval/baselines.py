"""Summaries that need no model, and how much of a summary is copied.

Use: `lead(dialogue)`, `longest(dialogue)`, `cut(prediction, 20)`, `style(predictions, references)`.
A model that does not beat the first three turns, or its base model cut short, learnt no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

import numpy as np

from eval import diagnosis
from eval.language import Scoring, word_ends
from eval.metrics import References, reference_lists
from eval.scores import Style

NGRAM = 4
BASELINES = {
    "lead-3": "the first three turns of the dialogue",
    "longest-3": "its three longest turns",
    "base-cut": "each summary of base, cut to as many words as that of tuned",
}


@dataclass
class System:
    """One system's outputs, in the order of the references.

    `stopped` and `tokens` are None where unknown; `fields` adds to the signature.
    """

    predictions: Sequence[str]
    kind: Literal["model", "baseline"] = "model"
    tokens: Sequence[int] | None = None
    stopped: Sequence[bool] | None = None
    seconds: float | None = None
    fields: dict[str, str] = field(default_factory=dict)


@dataclass
class Corpus:
    """What the systems are scored on; all but the references may be unknown (`leaked`: flags).

    `references`: of each row a list; one that is none is the only one of its row. `clusters`: a
    name for the dialogue of each row, where some rows share one; a mean, an interval and a test are
    over dialogues.
    """

    references: Sequence[Sequence[str]]
    dialogues: Sequence[str] | None = None
    leaked: Sequence[bool] | None = None
    ids: Sequence[str] | None = None
    clusters: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self.references = [[text] if isinstance(text, str) else [*text] for text in self.references]

    def means(self, values: Any) -> Any:
        """The mean of each dialogue's rows; `values` has a row an example in its first axis."""
        if not self.clusters:
            return values
        place = {name: n for n, name in enumerate(dict.fromkeys(self.clusters))}
        rows = [place[name] for name in self.clusters]
        sums = np.zeros((len(place), *values.shape[1:]))
        np.add.at(sums, rows, values)
        counts = np.bincount(rows).reshape(-1, *[1] * (values.ndim - 1))
        return sums / counts


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
    ranked = sorted(range(len(every)), key=lambda place: -len(word_ends(every[place])))
    return "\n".join(every[place] for place in sorted(ranked[:turns]))


def cut(prediction: str, words: int) -> str:
    """The first `words` words (`word_ends`) of a text; a shorter text as it is."""
    ends = word_ends(prediction)
    return prediction if len(ends) <= words else prediction[: ends[words - 1] if words else 0]


def style(
    predictions: Sequence[str],
    references: References,
    dialogues: Sequence[str] | None = None,
    scoring: Scoring | None = None,
) -> Style:
    """How long the predictions are and how much of them is copied, over all examples together.

    words: mean words of a prediction. length_ratio, compression: all words of the predictions by
    all those of the references (the mean of several), of the dialogues. copied_4grams: the share
    of the predictions' 4-grams that are in their dialogue (Grusky et al., 2018; See et al., 2017).
    None where there is nothing to divide by, or no dialogues. Words are those that ROUGE counts
    (`scoring`), not stemmed; those of a dialogue include the speakers' names, and its 4-grams
    cross its turns. Raises ValueError where the lists differ in number.
    """
    tokenize = (scoring or Scoring()).words
    predicted = [tokenize(text) for text in predictions]
    total = sum(map(len, predicted))
    each = reference_lists(predictions, references)
    expected = sum(fmean(len(tokenize(text)) for text in texts) for texts in each)
    length, copied, ngrams = 0, 0, 0
    for words, dialogue in zip(predicted, dialogues, strict=True) if dialogues else ():
        source = tokenize(dialogue)
        known = set(_ngrams(source))
        length += len(source)
        copied += sum(ngram in known for ngram in _ngrams(words))
        ngrams += len(_ngrams(words))
    return Style(
        words=_ratio(total, len(predicted)),
        length_ratio=_ratio(total, expected),
        compression=_ratio(total, length),
        copied_4grams=_ratio(copied, ngrams),
    )


def _ngrams(words: list[str]) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None


def with_baselines(systems: dict[str, System], corpus: Corpus) -> dict[str, System]:
    """The systems, and then the baselines: LEAD-3, LONGEST-3, the base model cut.

    The first two need dialogues; the third needs systems named `base` and `tuned`.
    """
    more = dict(systems)
    if corpus.dialogues is not None:
        more["lead-3"] = System([lead(text) for text in corpus.dialogues], "baseline")
        more["longest-3"] = System([longest(text) for text in corpus.dialogues], "baseline")
    if {"base", "tuned"} <= systems.keys():
        pairs = zip(systems["base"].predictions, systems["tuned"].predictions, strict=True)
        shortened = [cut(base, len(word_ends(tuned))) for base, tuned in pairs]
        more["base-cut"] = System(shortened, "baseline")
    return more


def models_of(systems: dict[str, System]) -> list[str]:
    """The names of the systems that are no baseline."""
    return [name for name, system in systems.items() if system.kind == "model"]


def default_pairs(systems: dict[str, System]) -> list[tuple[str, str]]:
    """Every two models; then each baseline against the tuned model, or else the last one."""
    models = models_of(systems)
    pairs = [(a, b) for n, a in enumerate(models) for b in models[n + 1 :]]
    main = "tuned" if "tuned" in models else models[-1]
    return pairs + [(name, main) for name in systems if name not in models]
