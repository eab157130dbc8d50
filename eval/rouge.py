"""ROUGE as the field reports it: rouge_score, stemmer on, mean of the per-example F1.

Use: `mean_f1(score(predictions, references))["rougeL"]`, in percent.
"""

from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def score(predictions: Sequence[str], references: Sequence[str]) -> list[dict[str, float]]:
    """F1 (0 to 1) of each prediction against its reference, by metric.

    rougeLsum takes each line as a sentence. An empty prediction counts, with 0. Source: Lin, 2004.
    Raises ValueError where the two differ in number.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    scorer = RougeScorer(METRICS, use_stemmer=True)
    return [
        {metric: value.fmeasure for metric, value in scorer.score(reference, prediction).items()}
        for prediction, reference in zip(predictions, references, strict=True)
    ]


def mean_f1(per_example: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of the per-example F1 in percent, by metric."""
    count = len(per_example)
    return {m: 100 * sum(example[m] for example in per_example) / count for m in METRICS}
