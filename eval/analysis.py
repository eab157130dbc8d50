"""From predictions to figures: scores with intervals, paired tests, baselines, mistakes, groups."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from eval import signature
from eval.baselines import Corpus, System, default_pairs, style
from eval.diagnosis import MISTAKES, diagnose, groups
from eval.metrics import F1, METRICS, PRECISION, RECALL, Scores, cores, mean_f1, score
from eval.stats import bootstrap_interval, paired_bootstrap, paired_randomization

SEED = 12345
NEEDS_DIALOGUE = ("missing_speaker", "unknown_name")


class Settings(NamedTuple):
    """How sure the figures are to be; `workers`: processes that score, by default the cores."""

    resamples: int = 1000
    permutations: int = 10_000
    confidence: float = 0.95
    seed: int = SEED
    workers: int | None = None


class Analysis(NamedTuple):
    """`figures` as scores.json holds them; by system, F1 per example and each one's mistakes."""

    figures: dict[str, Any]
    f1: dict[str, np.ndarray]
    mistakes: dict[str, list[list[str]]]


def analyse(
    systems: dict[str, System],
    corpus: Corpus,
    settings: Settings | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Analysis:
    """Score and compare; `pairs` names the comparisons, default `default_pairs`."""
    settings = settings or Settings()
    count = len(corpus.references)
    everything = [text for system in systems.values() for text in system.predictions]
    all_scores = score(everything, [*corpus.references] * len(systems), settings.workers or cores())
    scores = {name: all_scores[n * count :][:count] for n, name in enumerate(systems)}
    mistakes = {name: _mistakes(system, corpus) for name, system in systems.items()}
    common = signature.scoring_fields(corpus.references)
    figures = {
        "examples": count,
        "leaked": None if corpus.leaked is None else sum(corpus.leaked),
        "bootstrap": {
            "resamples": settings.resamples,
            "permutations": settings.permutations,
            "confidence": settings.confidence,
            "seed": settings.seed,
        },
        "systems": {
            name: _figures(system, scores[name], mistakes[name], corpus, settings, common)
            for name, system in systems.items()
        },
        "comparisons": [
            compare(first, second, scores, settings)
            for first, second in (default_pairs(systems) if pairs is None else pairs)
        ],
        "groups": _groups(systems, scores, corpus),
    }
    f1 = {name: values[:, :, F1] for name, values in scores.items()}
    return Analysis(figures, f1, mistakes)


def compare(
    first: str, second: str, scores: dict[str, Scores], settings: Settings
) -> dict[str, Any]:
    """Second minus first: difference in percent, interval and p-values of the paired tests."""
    one, two = scores[first][:, :, F1], scores[second][:, :, F1]
    drawn = paired_bootstrap(one, two, settings.resamples, settings.confidence, settings.seed)
    p_randomization = paired_randomization(one, two, settings.permutations, settings.seed)
    rouge_l = METRICS.index("rougeL")
    differences = two[:, rouge_l] - one[:, rouge_l]
    return {
        "systems": [first, second],
        "metrics": {
            metric: {
                "difference": _percent(drawn.difference[n]),
                "low": _percent(drawn.low[n]),
                "high": _percent(drawn.high[n]),
                "p_bootstrap": float(drawn.p[n]),
                "p_randomization": float(p_randomization[n]),
            }
            for n, metric in enumerate(METRICS)
        },
        "better": int((differences > 0).sum()),
        "worse": int((differences < 0).sum()),
        "equal": int((differences == 0).sum()),
    }


def _figures(
    system: System,
    scores: Scores,
    mistakes: list[list[str]],
    corpus: Corpus,
    settings: Settings,
    common: dict[str, str],
) -> dict[str, Any]:
    low, high = bootstrap_interval(
        scores[:, :, F1], settings.resamples, settings.confidence, settings.seed
    )
    means = scores.mean(axis=0)
    fields = {**common, **system.fields}
    looks = style(system.predictions, corpus.references, corpus.dialogues)
    return {
        "kind": system.kind,
        "signature": signature.line(fields),
        "fields": fields,
        "scores": {
            metric: {
                "f1": _percent(means[n, F1]),
                "precision": _percent(means[n, PRECISION]),
                "recall": _percent(means[n, RECALL]),
                "low": _percent(low[n]),
                "high": _percent(high[n]),
            }
            for n, metric in enumerate(METRICS)
        },
        "scores_without_leaked": _without_leaked(scores, corpus),
        "style": {name: value and round(value, 4) for name, value in looks.items()},
        "mean_tokens": None if system.tokens is None else round(float(np.mean(system.tokens)), 2),
        "stopped": None if system.stopped is None else round(float(np.mean(system.stopped)), 4),
        "mistakes": {
            name: sum(name in found for found in mistakes) if _known(name, system, corpus) else None
            for name in MISTAKES
        },
        "seconds": system.seconds,
    }


def _mistakes(system: System, corpus: Corpus) -> list[list[str]]:
    unknown = [None] * len(corpus.references)
    columns = zip(
        system.predictions,
        corpus.references,
        corpus.dialogues or unknown,
        system.stopped or unknown,
        strict=True,
    )
    return [diagnose(*column) for column in columns]


def _known(mistake: str, system: System, corpus: Corpus) -> bool:
    if mistake == "token_limit":
        return system.stopped is not None
    return corpus.dialogues is not None or mistake not in NEEDS_DIALOGUE


def _without_leaked(scores: Scores, corpus: Corpus) -> dict[str, float] | None:
    if corpus.leaked is None:
        return None
    kept = scores[~np.array(corpus.leaked, dtype=bool)]
    if not len(kept):
        return None
    means = {metric: round(value, 4) for metric, value in mean_f1(kept).items()}
    return {"examples": len(kept), **means}


def _groups(
    systems: dict[str, System], scores: dict[str, Scores], corpus: Corpus
) -> dict[str, list[dict[str, Any]]]:
    if corpus.dialogues is None:
        return {}
    rouge_l = METRICS.index("rougeL")
    return {
        kind: [
            {
                "label": label,
                "examples": len(places),
                "rougeL": {
                    name: _percent(scores[name][places, rouge_l, F1].mean()) for name in systems
                },
            }
            for label, places in bins
        ]
        for kind, bins in groups(corpus.dialogues).items()
    }


def _percent(value: float) -> float:
    return round(100 * float(value), 4)
