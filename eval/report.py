"""The report in short: `report.md`, and its tables for the terminal."""

import re
from collections.abc import Sequence
from typing import Any

from eval.baselines import BASELINES
from eval.metrics import METRICS
from eval.stats import verdict

HEADERS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}
PAIR_COLUMNS = "difference | interval | p bootstrap | p randomisation | better | worse"
SIMILARITY = (
    "Cosine of the embeddings of summary and reference, times 100, mean over the dialogues. It "
    "tells whether they speak of the same things, not whether the summary is true."
)
SIDE_BY_SIDE = 10
Row = dict[str, Any]


def table(figures: dict[str, Any]) -> str:
    """Markdown table: F1 in percent with its interval, a row a system, and the models' gain."""
    columns = [*HEADERS.values(), "words", "stopped"]
    lines = [f"| system | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, system in figures["systems"].items():
        cells = [_with_interval(system["scores"][metric]) for metric in METRICS]
        cells.append(_number(system["style"]["words"], ".1f"))
        cells.append(_number(system["stopped"], ".0%"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for pair in figures["comparisons"]:
        if pair["systems"] == ["base", "tuned"]:
            gains = [f"{pair['metrics'][metric]['difference']:+.2f}" for metric in METRICS]
            lines.append(f"| tuned - base | {' | '.join(gains)} | | |")
    return "\n".join(lines)


def comparison_table(figures: dict[str, Any], metric: str = "rougeL") -> str:
    """Markdown table of the paired tests of one metric, a row a pair."""
    lines = [f"| {HEADERS[metric]} | {PAIR_COLUMNS} |", "|---|---:|---:|---:|---:|---:|---:|"]
    for pair in figures["comparisons"]:
        lines.append(_pair_row(pair["systems"], pair["metrics"][metric], pair))
    return "\n".join(lines)


def similarity_tables(figures: dict[str, Any]) -> list[str]:
    """Markdown tables of the similarity of embeddings, of systems and of pairs; [] without it."""
    systems = {n: s["similarity"] for n, s in figures["systems"].items() if "similarity" in s}
    if not systems:
        return []
    lines = ["| system | similarity |", "|---|---:|"]
    for name, found in systems.items():
        lines.append(f"| {name} | {_with_interval({**found, 'f1': found['mean']})} |")
    tests = {tuple(pair["systems"]): pair["similarity"] for pair in figures["comparisons"]}
    if not tests:
        return ["\n".join(lines)]
    pairs = [f"| similarity | {PAIR_COLUMNS} |", "|---|---:|---:|---:|---:|---:|---:|"]
    pairs += [_pair_row(names, test, test) for names, test in tests.items()]
    return ["\n".join(lines), "\n".join(pairs)]


def similarity_signatures(figures: dict[str, Any]) -> dict[str, str]:
    """The signature of each model's similarity; {} where it was not asked for."""
    systems = figures["systems"].items()
    return {
        name: system["similarity"]["signature"]
        for name, system in systems
        if "similarity" in system and system["kind"] == "model"
    }


def mistake_table(figures: dict[str, Any]) -> str:
    """Markdown table: in how many examples each mistake was found, a row a system."""
    systems = figures["systems"]
    names = list(next(iter(systems.values()))["mistakes"])
    heads = " | ".join(name.replace("_", " ") for name in names)
    lines = [f"| system | {heads} |", "|---|" + "---:|" * len(names)]
    for name, system in systems.items():
        counts = " | ".join(_number(system["mistakes"][mistake], "d") for mistake in names)
        lines.append(f"| {name} | {counts} |")
    return "\n".join(lines)


def leaked_table(figures: dict[str, Any]) -> str:
    """Markdown table of F1 without the leaked dialogues; "" where there are none, or all are."""
    kept = {n: s["scores_without_leaked"] for n, s in figures["systems"].items()}
    if not figures["leaked"] or None in kept.values():
        return ""
    lines = [f"| system | {' | '.join(HEADERS.values())} |", "|---|" + "---:|" * len(HEADERS)]
    for name, means in kept.items():
        lines.append(f"| {name} | {' | '.join(f'{means[m]:.2f}' for m in METRICS)} |")
    return "\n".join(lines)


def report(scores: dict[str, Any], examples: list[Row]) -> str:
    """The whole report in Markdown: tables, how it was scored, ten dialogues side by side.

    `examples`: `{"id", "dialogue", "reference", "predictions": {model: {"text"}}}` each.
    """
    settings = scores["bootstrap"]
    parts = [
        f"# {scores['recipe']}: {scores['examples']} {scores['split']} dialogues",
        table(scores),
        f"ROUGE F1 in percent, mean over the dialogues [{settings['confidence']:.0%} interval by "
        f"{settings['resamples']} bootstrap resamples]. "
        + "; ".join(f"{n}: {text}" for n, text in BASELINES.items() if n in scores["systems"])
        + ".",
    ]
    if scores["comparisons"]:
        parts.insert(1, verdict(scores["comparisons"][0], settings))
        parts += ["## Paired tests", comparison_table(scores)]
    if similarity := similarity_tables(scores):
        parts += ["## Similarity of embeddings", SIMILARITY, *similarity]
        parts += [
            "\n".join(f"- {n}: `{text}`" for n, text in similarity_signatures(scores).items())
        ]
    if leaked := leaked_table(scores):
        head = f"## Without the {scores['leaked']} dialogues that also stand in the training source"
        parts += [head, leaked]
    parts += ["## What goes wrong", mistake_table(scores), "## How it was made"]
    parts += [f"- {name}: `{s['signature']}`" for name, s in scores["systems"].items()]
    parts += [f"- {sentence}" for sentence in [adapter_sentence(scores)] if sentence]
    parts.append("## Side by side")
    step = max(1, len(examples) // SIDE_BY_SIDE)
    parts += [_example(example) for example in examples[::step][:SIDE_BY_SIDE]]
    return "\n\n".join(parts) + "\n"


def adapter_sentence(scores: dict[str, Any]) -> str:
    """What is to be said of an adapter that is not known to be what the recipe trains; else ""."""
    adapter = scores.get("adapter")
    if not adapter or adapter["trained_otherwise"] == []:
        return ""
    if adapter["trained_otherwise"] is None:
        return f"The adapter of {adapter['folder']} has no run.json: how it was trained is unknown."
    changed = "; ".join(adapter["trained_otherwise"])
    return (
        f"The adapter of {adapter['folder']} was trained otherwise than recipe {scores['recipe']} "
        f"says: {changed}."
    )


def fenced(text: str) -> str:
    """Text as a code block that no run of backticks in it can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _pair_row(names: Sequence[str], test: Row, counts: Row) -> str:
    first, second = names
    return (
        f"| {second} - {first} | {test['difference']:+.2f} | "
        f"{test['low']:+.2f} to {test['high']:+.2f} | "
        f"{_p(test['p_bootstrap'])} | {_p(test['p_randomization'])} | "
        f"{counts['better']} | {counts['worse']} |"
    )


def _with_interval(score: dict[str, float]) -> str:
    return f"{score['f1']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.001 else "< 0.001"


def _example(example: Row) -> str:
    rows = [f"| reference | {_cell(example['reference'])} |"]
    rows += [f"| {name} | {_cell(made['text'])} |" for name, made in example["predictions"].items()]
    head = [f"### {_cell(example['id'])}", "", fenced(example["dialogue"]), ""]
    return "\n".join([*head, "| | summary |", "|---|---|", *rows])


def _cell(text: str) -> str:
    """Text that a Markdown table shows as it is: no markup, no HTML, one line."""
    text = re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))
    return text or "(empty)"
