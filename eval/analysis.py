"""From predictions to scores: means with intervals, paired tests, mistakes, groups.

Use: `analyse(with_baselines(systems, corpus), corpus).scores`, which is scores.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval import metrics, signature, stats
from eval.baselines import Corpus, System, default_pairs, style
from eval.diagnosis import MISTAKES, diagnose, groups
from eval.metrics import F1, METRICS, PRECISION, RECALL, SIMILARITY, Array
from eval.scores import (
    PRIMARY,
    VERSION,
    Bootstrap,
    Comparison,
    Group,
    PairedTest,
    Score,
    Scores,
    SystemScores,
)

NEEDS_DIALOGUE = ("missing_speaker", "unknown_name")


@dataclass
class Analysis:
    """The scores, and what they were computed from.

    By system: `values`, shape (examples, metrics), F1 or the cosine, 0 to 1; and the mistakes of
    each example.
    """

    scores: Scores
    systems: dict[str, System]
    corpus: Corpus
    values: dict[str, Array]
    mistakes: dict[str, list[list[str]]]


def analyse(
    systems: dict[str, System],
    corpus: Corpus,
    settings: Bootstrap | None = None,
    workers: int | None = None,
    embedding: bool = False,
) -> Analysis:
    """Score the systems, and compare the pairs that `default_pairs` names.

    `workers` is the number of processes that score, by default that of the cores; `embedding` adds
    the metric `similarity`.
    """
    settings = settings or Bootstrap()
    # all systems together, so that processes start once and a text is embedded once
    texts = [text for system in systems.values() for text in system.predictions]
    references = [*corpus.references] * len(systems)
    rouge = metrics.score(texts, references, workers or metrics.cores())
    columns = dict(zip(METRICS, rouge[:, :, F1].T, strict=True))
    fields = signature.scoring_fields(corpus.references)
    if embedding:
        columns[SIMILARITY] = metrics.similarities(texts, references)
        fields |= {"metric": "rouge+embedding"} | metrics.similarity_fields()
    names = list(columns)
    of_all = np.column_stack(list(columns.values()))
    values = dict(zip(systems, np.split(of_all, len(systems)), strict=True))
    of_rouge = dict(zip(systems, np.split(rouge, len(systems)), strict=True))
    mistakes = {name: _mistakes(system, corpus) for name, system in systems.items()}
    scores = Scores(
        version=VERSION,
        examples=len(corpus.references),
        leaked=None if corpus.leaked is None else sum(corpus.leaked),
        bootstrap=settings,
        systems={
            name: SystemScores(
                kind=system.kind,
                signature=signature.line(fields | system.fields),
                fields=fields | system.fields,
                scores=_means(values[name], of_rouge[name], names, settings),
                scores_without_leaked=_without_leaked(values[name], names, corpus),
                style=style(system.predictions, corpus.references, corpus.dialogues),
                mean_tokens=_mean(system.tokens, 2),
                stopped=_mean(system.stopped, 4),
                mistakes=_counts(mistakes[name], system, corpus),
                seconds=system.seconds,
            )
            for name, system in systems.items()
        },
        comparisons=[_compare(pair, values, names, settings) for pair in default_pairs(systems)],
        groups=_groups(values, names, corpus),
    )
    return Analysis(scores, systems, corpus, values, mistakes)


def _means(values: Array, rouge: Array, names: list[str], settings: Bootstrap) -> dict[str, Score]:
    low, high = stats.bootstrap_interval(values, settings)
    means, of_rouge = values.mean(axis=0), rouge.mean(axis=0)
    found = {
        name: Score(f1=_percent(means[n]), low=_percent(low[n]), high=_percent(high[n]))
        for n, name in enumerate(names)
    }
    for n, name in enumerate(METRICS):
        found[name].precision = _percent(of_rouge[n, PRECISION])
        found[name].recall = _percent(of_rouge[n, RECALL])
    return found


def _compare(
    pair: tuple[str, str], values: dict[str, Array], names: list[str], settings: Bootstrap
) -> Comparison:
    """Second minus first, by metric."""
    one, two = (values[name] for name in pair)
    drawn = stats.paired_bootstrap(one, two, settings)
    p_randomization = stats.paired_randomization(one, two, settings)
    differences = (two - one)[:, names.index(PRIMARY)]
    return Comparison(
        systems=pair,
        metrics={
            name: PairedTest(
                difference=_percent(drawn.difference[n]),
                low=_percent(drawn.low[n]),
                high=_percent(drawn.high[n]),
                p_bootstrap=drawn.p[n],
                p_randomization=p_randomization[n],
            )
            for n, name in enumerate(names)
        },
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
        equal=int((differences == 0).sum()),
    )


def _mistakes(system: System, corpus: Corpus) -> list[list[str]]:
    unknown = [None] * len(corpus.references)
    dialogues, stopped = corpus.dialogues or unknown, system.stopped or unknown
    columns = zip(system.predictions, corpus.references, dialogues, stopped, strict=True)
    return [diagnose(*column) for column in columns]


def _counts(mistakes: list[list[str]], system: System, corpus: Corpus) -> dict[str, int | None]:
    counts: dict[str, int | None] = {
        name: sum(name in found for found in mistakes) for name in MISTAKES
    }
    if system.stopped is None:
        counts["token_limit"] = None
    if corpus.dialogues is None:
        counts |= dict.fromkeys(NEEDS_DIALOGUE)
    return counts


def _without_leaked(
    values: Array, names: list[str], corpus: Corpus
) -> dict[str, int | float] | None:
    if corpus.leaked is None or all(corpus.leaked):
        return None
    kept = values[~np.array(corpus.leaked, dtype=bool)]
    means = map(_percent, kept.mean(axis=0))
    return {"examples": len(kept), **dict(zip(names, means, strict=True))}


def _groups(values: dict[str, Array], names: list[str], corpus: Corpus) -> dict[str, list[Group]]:
    if corpus.dialogues is None:
        return {}
    rouge_l = {name: found[:, names.index(PRIMARY)] for name, found in values.items()}
    return {
        kind: [
            Group(
                label=label,
                examples=len(places),
                rougeL={name: _percent(found[places].mean()) for name, found in rouge_l.items()},
            )
            for label, places in bins
        ]
        for kind, bins in groups(corpus.dialogues).items()
    }


def _mean(numbers: Sequence[float] | None, digits: int) -> float | None:
    return None if numbers is None else round(float(np.mean(numbers)), digits)


def _percent(value: float) -> float:
    return round(100 * float(value), 4)
