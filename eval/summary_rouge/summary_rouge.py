"""The project's ROUGE as a Hugging Face `evaluate` module, loaded from disk, without the Hub.

Use, in any folder, after `pip install -e .`:
`evaluate.load(str(importlib.resources.files("eval") / "summary_rouge"))`, then
`.compute(predictions=[...], references=[...])["rougeL"]`; in the repository's root,
`evaluate.load("eval/summary_rouge")` is enough.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from data_prep.settings import Rouge
from eval.language import markup_in, resolve, without_markup
from eval.language import warnings as language_warnings
from eval.metrics import mean_f1, reference_lists, score  # From: -e .

DESCRIPTION = """\
ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum of summaries: rouge_score with the words, stems and
sentences of the language (for English, its own tokenizer and the Porter stemmer), mean F1 over the
examples, 0 to 1. `evaluate`'s own "rouge" does not stem by default, and returns the median of an
unseeded bootstrap instead of the mean.
"""
INPUTS = """
Args:
    predictions: one string per example; an empty one scores 0.
    references: one string per example, or a list of several; the one with the best F1 counts.
    language, tokenizer, stemmer, lsum, strip: as in a recipe's `summarization:` block.
Returns: rouge1, rouge2, rougeL, rougeLsum, 0 to 1.
"""


class SummaryRouge(evaluate.Metric):
    """ROUGE as `eval.metrics` computes it."""

    def _info(self) -> evaluate.MetricInfo:
        string = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Lin, 2004, ROUGE: A Package for Automatic Evaluation of Summaries",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": string, "references": datasets.Sequence(string)}
            ),
            reference_urls=["https://aclanthology.org/W04-1013"],
        )

    def add(self, **example: object) -> None:
        """Add one example; argument names may be singular or plural, as in `evaluate`."""
        fields = {name.removesuffix("s"): value for name, value in example.items()}
        self.add_batch(predictions=[fields.get("prediction")], references=[fields.get("reference")])

    def add_batch(
        self,
        *,
        predictions: Sequence[object] | None = None,
        references: Sequence[object] | None = None,
        **others: object,
    ) -> None:
        """Add examples; raises ValueError if a prediction or reference is missing or not a string.

        `evaluate` 0.4 checks only the first example; if a later one has a list of references, it
        would score the list as text, brackets included.
        """
        if predictions is None or references is None:
            raise ValueError("both predictions and references are needed")
        rows = [list(texts) if isinstance(texts, list | tuple) else [texts] for texts in references]
        for text in [*predictions, *(text for texts in rows for text in texts or [None])]:
            if not isinstance(text, str):
                raise ValueError(
                    f"expected a string, or a list of them for references, not {text!r}"
                )
        super().add_batch(predictions=predictions, references=rows, **others)

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        language: str = "en",
        **rouge: Any,
    ) -> dict[str, float]:
        lists, settings = reference_lists(predictions, references), Rouge(**rouge)
        if settings.strip:
            predictions = [without_markup(text) for text in predictions]
            lists = [[without_markup(text) for text in texts] for texts in lists]
        elif marked := sum(bool(markup_in(text)) for text in predictions):
            warnings.warn(f"{marked} predictions have control tokens: use strip=True", stacklevel=2)
        scoring = resolve(settings, language, lists)
        for note in language_warnings(scoring, {"the references": [t for ts in lists for t in ts]}):
            warnings.warn(note, stacklevel=2)
        means = mean_f1(score(predictions, lists, scoring=scoring))
        return {metric: percent / 100 for metric, percent in means.items()}
