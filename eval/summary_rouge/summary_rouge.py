"""The project's ROUGE as a module of Hugging Face `evaluate`, loaded from disk, without the hub.

Use, in the repository's root, once `pip install -e .` is done:
`evaluate.load("eval/summary_rouge").compute(predictions=[...], references=[...])["rougeL"]`
"""

from collections.abc import Sequence

import datasets
import evaluate

from eval.metrics import mean_f1, score  # From: -e .

DESCRIPTION = """\
ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum of summaries: rouge_score with the Porter stemmer, mean of
the F1 of the examples, 0 to 1. `evaluate`'s own "rouge" has the stemmer off unless told, and gives
the median of an unseeded bootstrap for the mean.
"""
INPUTS = """
Args:
    predictions: one string per example; an empty one counts, with 0.
    references: one string per example, or a list that holds one string.
Returns: rouge1, rouge2, rougeL, rougeLsum (each line a sentence), 0 to 1.
"""


class SummaryRouge(evaluate.Metric):
    """ROUGE as `eval.metrics` computes it."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Lin, 2004, ROUGE: A Package for Automatic Evaluation of Summaries",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
            reference_urls=["https://aclanthology.org/W04-1013"],
        )

    def add_batch(
        self,
        *,
        predictions: Sequence[str] | None = None,
        references: Sequence[str | list[str]] | None = None,
        **others: object,
    ) -> None:
        """Add examples; ValueError on one without exactly one string of each.

        `evaluate` 0.4 looks at the first example alone, and would score the list of a later one as
        if its brackets were text.
        """
        if predictions is None or references is None:
            raise ValueError("both predictions and references are needed")
        super().add_batch(
            predictions=[_only(text) for text in predictions],
            references=[_only(text) for text in references],
            **others,
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        means = mean_f1(score(predictions, references))
        return {metric: percent / 100 for metric, percent in means.items()}


def _only(text: str | list[str]) -> str:
    """The one string of an example."""
    if isinstance(text, list | tuple) and len(text) == 1:
        text = text[0]
    if not isinstance(text, str):
        raise ValueError(f"expected exactly one string for an example, not {text!r}")
    return text
