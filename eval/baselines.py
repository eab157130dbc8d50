"""Baseline summaries that need no model, and measures of length and copying.

Use: `lead(dialogue)`, `longest(dialogue)`, `cut(prediction, 20)`, `style(predictions, references)`.
A model has learnt little if it does not beat the first three turns, or its base model cut short.
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
    "longest-3": "the three longest turns of the dialogue",
    "base-cut": "each summary by base, cut to as many words as tuned's summary has",
}


@dataclass
class System:
    """One system's outputs, in the order of the references.

    `stopped` and `tokens` are None if unknown; `fields` are added to the signature.
    """

    predictions: Sequence[str]
    kind: Literal["model", "baseline"] = "model"
    tokens: Sequence[int] | None = None
    stopped: Sequence[bool] | None = None
    seconds: float | None = None
    fields: dict[str, str] = field(default_factory=dict)


@dataclass
class Corpus:
    """The data that systems are scored on; everything but the references may be unknown.

    `references`: a list per row; a plain string is the row's only reference. `leaked`: a flag per
    row. `clusters`: the name of each row's dialogue, if rows share dialogues; means, intervals and
    tests are then over dialogues.
    """

    references: Sequence[Sequence[str]]
    dialogues: Sequence[str] | None = None
    leaked: Sequence[bool] | None = None
    ids: Sequence[str] | None = None
    clusters: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self.references = [[text] if isinstance(text, str) else [*text] for text in self.references]

    def means(self, values: Any) -> Any:
        """Return the mean over each dialogue's rows; the first axis of `values` is the rows."""
        if not self.clusters:
            return values
        index_of = {name: n for n, name in enumerate(dict.fromkeys(self.clusters))}
        dialogue_of_row = [index_of[name] for name in self.clusters]
        sums = np.zeros((len(index_of), *values.shape[1:]))
        np.add.at(sums, dialogue_of_row, values)
        counts = np.bincount(dialogue_of_row).reshape(-1, *[1] * (values.ndim - 1))
        return sums / counts


def lead(dialogue: str, turns: int = 3) -> str:
    """Return the first `turns` turns, one per line, with the speakers' names.

    LEAD-3 of the SAMSum paper (Gliwa et al., 2019). The names are kept: with them, the 819 test
    dialogues score ROUGE-1/2/L 31.31/8.68/24.17; without, only 23.90/9.18/19.73. The separator
    between turns affects only rougeLsum, which treats each line as a sentence.
    """
    return "\n".join(diagnosis.turns(dialogue)[:turns])


def longest(dialogue: str, turns: int = 3) -> str:
    """Return the `turns` turns with the most words, in dialogue order; ties go to the earlier."""
    all_turns = diagnosis.turns(dialogue)
    ranked = sorted(range(len(all_turns)), key=lambda index: -len(word_ends(all_turns[index])))
    return "\n".join(all_turns[index] for index in sorted(ranked[:turns]))


def cut(prediction: str, words: int) -> str:
    """Return the first `words` words (`word_ends`) of a text; a shorter text is unchanged."""
    ends = word_ends(prediction)
    return prediction if len(ends) <= words else prediction[: ends[words - 1] if words else 0]


def style(
    predictions: Sequence[str],
    references: References,
    dialogues: Sequence[str] | None = None,
    scoring: Scoring | None = None,
) -> Style:
    """Measure how long the predictions are and how much they copy, over all examples together.

    words: mean words per prediction. length_ratio, compression: all words of the predictions
    divided by all words of the references (the mean, if several) or of the dialogues.
    copied_4grams: the share of the predictions' 4-grams that are in their dialogue (Grusky et al.,
    2018; See et al., 2017). None if the divisor is 0 or there are no dialogues. Words are those
    that ROUGE counts (`scoring`), not stemmed; a dialogue's words include the speakers' names, and
    its 4-grams cross turns. Raises ValueError if the lists differ in length.
    """
    tokenize = (scoring or Scoring()).words
    predicted = [tokenize(text) for text in predictions]
    predicted_words = sum(map(len, predicted))
    lists = reference_lists(predictions, references)
    reference_words = sum(fmean(len(tokenize(text)) for text in texts) for texts in lists)
    dialogue_words, copied, ngrams = 0, 0, 0
    for words, dialogue in zip(predicted, dialogues, strict=True) if dialogues else ():
        source = tokenize(dialogue)
        known = set(_ngrams(source))
        dialogue_words += len(source)
        copied += sum(ngram in known for ngram in _ngrams(words))
        ngrams += len(_ngrams(words))
    return Style(
        words=_ratio(predicted_words, len(predicted)),
        length_ratio=_ratio(predicted_words, reference_words),
        compression=_ratio(predicted_words, dialogue_words),
        copied_4grams=_ratio(copied, ngrams),
    )


def _ngrams(words: list[str]) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None


def add_baselines(systems: dict[str, System], corpus: Corpus) -> dict[str, System]:
    """Return the systems, followed by the baselines: LEAD-3, LONGEST-3, base cut to length.

    The first two need dialogues; the third needs systems named `base` and `tuned`.
    """
    extended = dict(systems)
    if corpus.dialogues is not None:
        extended["lead-3"] = System([lead(text) for text in corpus.dialogues], "baseline")
        extended["longest-3"] = System([longest(text) for text in corpus.dialogues], "baseline")
    if {"base", "tuned"} <= systems.keys():
        pairs = zip(systems["base"].predictions, systems["tuned"].predictions, strict=True)
        shortened = [cut(base, len(word_ends(tuned))) for base, tuned in pairs]
        extended["base-cut"] = System(shortened, "baseline")
    return extended


def model_names(systems: dict[str, System]) -> list[str]:
    """Return the names of the systems that are models, not baselines."""
    return [name for name, system in systems.items() if system.kind == "model"]


def default_pairs(systems: dict[str, System]) -> list[tuple[str, str]]:
    """Pair every two models; then each baseline with the tuned model, or else the last model."""
    models = model_names(systems)
    pairs = [(a, b) for n, a in enumerate(models) for b in models[n + 1 :]]
    main = "tuned" if "tuned" in models else models[-1]
    return pairs + [(name, main) for name in systems if name not in models]
