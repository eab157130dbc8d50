"""The report of an evaluation: `report.md`, and the same table for the terminal."""

import re
from typing import Any

from eval.rouge import METRICS

HEADERS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}
SIDE_BY_SIDE = 10
Row = dict[str, Any]


def table(scores: dict[str, Any]) -> str:
    """Markdown table of the models in `scores`, with the difference where there are two."""
    columns = [*HEADERS.values(), "mean tokens", "stopped"]
    lines = [f"| model | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    models = scores["models"]
    for name, model in models.items():
        values = [f"{model[metric]:.2f}" for metric in METRICS]
        values += [f"{model['mean_tokens']:.1f}", f"{100 * model['stopped']:.0f} %"]
        lines.append(f"| {name} | {' | '.join(values)} |")
    if {"base", "tuned"} <= models.keys():
        gains = [f"{models['tuned'][m] - models['base'][m]:+.2f}" for m in METRICS]
        lines.append(f"| tuned - base | {' | '.join(gains)} | | |")
    return "\n".join(lines)


def report(scores: dict[str, Any], predictions: dict[str, list[Row]]) -> str:
    """The whole report in Markdown: table, how it was scored, ten dialogues side by side."""
    decoding = ", ".join(f"{key} {value}" for key, value in scores["decoding"].items())
    parts = [
        f"# {scores['recipe']}: {scores['examples']} {scores['split']} dialogues",
        table(scores),
        f"F1 in percent, mean over the dialogues; {scores['metric']}. Base model: "
        f"{scores['base_model']}. Decoding: {decoding}. Commit: {scores['commit']}.",
        "## Side by side",
    ]
    first = next(iter(predictions.values()))
    step = max(1, len(first) // SIDE_BY_SIDE)
    for number in range(0, len(first), step)[:SIDE_BY_SIDE]:
        parts.append(_example(number, predictions))
    return "\n\n".join(parts) + "\n"


def _example(number: int, predictions: dict[str, list[Row]]) -> str:
    first = next(iter(predictions.values()))[number]
    rows = [f"| reference | {_cell(first['reference'])} |"]
    rows += [
        f"| {name} | {_cell(rows[number]['prediction'])} |" for name, rows in predictions.items()
    ]
    return "\n".join(
        [
            f"### {_cell(first['id'])}",
            "",
            _fenced(first["dialogue"]),
            "",
            "| | summary |",
            "|---|---|",
        ]
        + rows
    )


def _cell(text: str) -> str:
    """Text that a Markdown table shows as it is: no markup, no HTML, one line."""
    text = re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))
    return text or "(empty)"


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
