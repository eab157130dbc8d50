"""ROUGE as the field reports it: rouge_score, stemmer on, mean of the per-example F1.

Use: `mean_f1(score(predictions, references))["rougeL"]`, in percent.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
PRECISION, RECALL, F1 = range(3)
CHUNK = 250  # examples a task; below two of them a second process costs more than it saves

Scores = NDArray[np.float64]


def score(predictions: Sequence[str], references: Sequence[str], workers: int = 1) -> Scores:
    """Precision, recall and F1 (0 to 1): shape (examples, metrics, 3), metrics as in METRICS.

    rougeLsum takes each line as a sentence. An empty prediction counts, with 0. The figures do not
    depend on `workers`: processes that import the calling script anew, so a script that asks for
    more than one needs `if __name__ == "__main__"`. Source: Lin, 2004. Raises ValueError where the
    two differ in number.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    pairs = list(zip(predictions, references, strict=True))
    chunks = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
    workers = min(workers, len(chunks))
    if workers < 2:
        scored = map(_score_chunk, chunks)
        return np.array(list(chain.from_iterable(scored))).reshape(-1, len(METRICS), 3)
    # spawned, not forked: a fork of a process in which PyTorch runs threads may hang
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return np.array(list(chain.from_iterable(pool.map(_score_chunk, chunks))))


def mean_f1(scores: Scores) -> dict[str, float]:
    """Mean of the per-example F1 in percent, by metric; raises ValueError where there is none."""
    if not len(scores):
        raise ValueError("no examples to average over")
    means = 100 * scores[:, :, F1].mean(axis=0)
    return dict(zip(METRICS, means.tolist(), strict=True))


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _score_chunk(pairs: list[tuple[str, str]]) -> list[list[tuple[float, float, float]]]:
    scorer = RougeScorer(METRICS, use_stemmer=True)
    scored = (scorer.score(reference, prediction) for prediction, reference in pairs)
    return [[tuple(example[metric]) for metric in METRICS] for example in scored]
