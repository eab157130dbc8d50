"""From predictions to scores: means with intervals, paired tests, mistakes, groups.

Use: `analyse(with_baselines(systems, corpus), corpus).scores`, which is scores.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval import metrics, signature
from eval.baselines import Corpus, System, default_pairs, style
from eval.diagnosis import MISTAKES, diagnose, groups
from eval.metrics import F1, METRICS, PRECISION, RECALL, SIMILARITY, Array
from eval.scores import PRIMARY, VERSION, Bootstrap, Comparison, Group, Score, Scores, SystemScores
from eval.stats import bootstrap, in_percent, paired_tests


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

    mistakes, scored = {}, {}
    unknown = [None] * len(corpus.references)
    for name, system in systems.items():
        known = (corpus.references, corpus.dialogues or unknown, system.stopped or unknown)
        rows = zip(system.predictions, *known, strict=True)
        mistakes[name] = [diagnose(*row) for row in rows]
        scored[name] = SystemScores(
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
    scores = Scores(
        version=VERSION,
        examples=len(corpus.references),
        leaked=None if corpus.leaked is None else sum(corpus.leaked),
        bootstrap=settings,
        systems=scored,
        comparisons=[_compare(pair, values, names, settings) for pair in default_pairs(systems)],
        groups={},
    )
    for kind, bins in groups(corpus.dialogues).items() if corpus.dialogues is not None else ():
        scores.groups[kind] = []
        for label, places in bins:
            shares = {name: of[places, names.index(PRIMARY)].mean() for name, of in values.items()}
            rouge_l = {name: in_percent(share) for name, share in shares.items()}
            group = Group(label=label, examples=len(places), rougeL=rouge_l)
            scores.groups[kind].append(group)
    return Analysis(scores, systems, corpus, values, mistakes)


def _compare(
    pair: tuple[str, str], values: dict[str, Array], names: list[str], settings: Bootstrap
) -> Comparison:
    first, second = (values[name] for name in pair)
    tests = paired_tests(first, second, settings)
    signs = np.sign((second - first)[:, names.index(PRIMARY)]).tolist()
    return Comparison(
        systems=pair,
        metrics=dict(zip(names, tests, strict=True)),
        better=signs.count(1),
        worse=signs.count(-1),
        equal=signs.count(0),
    )


def _means(values: Array, rouge: Array, names: list[str], settings: Bootstrap) -> dict[str, Score]:
    ends = bootstrap(values, settings).confidence_interval
    columns = zip(names, values.mean(axis=0), ends.low, ends.high, strict=True)
    found = {
        name: Score(f1=in_percent(mean), low=in_percent(low), high=in_percent(high))
        for name, mean, low, high in columns
    }
    for name, mean in zip(METRICS, rouge.mean(axis=0), strict=True):
        found[name].precision = in_percent(mean[PRECISION])
        found[name].recall = in_percent(mean[RECALL])
    return found


def _without_leaked(values: Array, names: list[str], corpus: Corpus) -> dict[str, float] | None:
    if corpus.leaked is None or all(corpus.leaked):
        return None
    kept = values[~np.array(corpus.leaked)]
    means = map(in_percent, kept.mean(axis=0))
    return {"examples": len(kept), **dict(zip(names, means, strict=True))}


def _counts(mistakes: list[list[str]], system: System, corpus: Corpus) -> dict[str, int | None]:
    unknown = {"token_limit"} if system.stopped is None else set()
    if corpus.dialogues is None:
        unknown |= {"missing_speaker", "unknown_name", "unknown_number", "unknown_date"}
    return {
        name: None if name in unknown else sum(name in found for found in mistakes)
        for name in MISTAKES
    }


def _mean(numbers: Sequence[float] | None, digits: int) -> float | None:
    return None if numbers is None else round(float(np.mean(numbers)), digits)
