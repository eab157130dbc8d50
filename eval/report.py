"""`report.md`, the short report, and its tables for the terminal and the model card."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_prep.console import say
from eval.analysis import Analysis
from eval.baselines import BASELINES
from eval.metrics import BERTSCORE, METRICS, SIMILARITY
from eval.scores import PRIMARY, Score, Scores
from eval.stats import outcome, signed, verdict

HEADERS = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    SIMILARITY: "similarity",
    BERTSCORE: "BERTScore",
}
ABOUT_SIMILARITY = (
    "Similarity: cosine of the embeddings of summary and reference, times 100, mean over the "
    "dialogues. It shows whether both have the same subject, not whether the summary is true."
)
SIDE_BY_SIDE = 10
BOLD = re.compile("\0(.*?)\0")
SHORT_TITLES = {"difference": "gain", "p bootstrap": "p boot", "p randomisation": "p random"}


def table(scores: Scores) -> str:
    """Return the scores in Markdown, with intervals: one row per system, then tuned - base."""
    return markdown(_score_rows(scores))


def _score_rows(scores: Scores) -> list[list[str]]:
    rows = [["system", *(HEADERS[m] for m in scores.metrics), "words", "stopped"]]
    for name, system in scores.systems.items():
        cells = map(interval, system.scores.values())
        words, stopped = _number(system.style.words, ".1f"), _number(system.stopped, ".0%")
        rows.append([name, *cells, words, stopped])
    for pair in scores.comparisons:
        if pair.systems == ("base", "tuned"):
            gains = [f"{test.difference:+.2f}" for test in pair.metrics.values()]
            rows.append(["tuned - base", *gains, "", ""])
    return rows


def comparison_table(scores: Scores, metric: str = PRIMARY) -> str:
    """Return one metric's paired tests in Markdown, one row per pair; for ROUGE-L with counts."""
    return markdown(test_rows(scores, metric))


def test_rows(
    scores: Scores, metric: str = PRIMARY, holm: Mapping[tuple[str, str], float] | None = None
) -> list[list[str]]:
    """Return a metric's tests as rows, header first; `holm`: p by pair, instead of both tests'."""
    counts = ["better", "worse", *(["equal"] if holm else [])] if metric == PRIMARY else []
    titles = ["p (Holm)"] if holm else ["p bootstrap", "p randomisation"]
    rows = [[HEADERS[metric], "difference", "interval", *titles, *counts]]
    for pair in scores.comparisons:
        test = pair.metrics[metric]
        p_values = [holm[pair.systems]] if holm else [test.p_bootstrap, test.p_randomization]
        row = [
            f"{pair.systems[1]} - {pair.systems[0]}",
            f"{test.difference:+.2f}",
            f"{test.low:+.2f} to {test.high:+.2f}",
            *(f"{p:.4f}" if p >= 0.001 else "< 0.001" for p in p_values),
        ]
        rows.append(row + [str(getattr(pair, count)) for count in counts])
    return rows


def interval(score: Score) -> str:
    """Return `36.23 [35.04, 37.36]`."""
    return f"{score.f1:.2f} [{score.low:.2f}, {score.high:.2f}]"


@dataclass(frozen=True)
class Cell:
    """A table cell: its text (bold between two NULs) and its CSV values by column name."""

    text: str
    numbers: Mapping[str, str | float | None]

    @classmethod
    def of_score(cls, metric: str, score: Score, bold: bool = False) -> "Cell":
        """Return a score with its interval."""
        text = f"\0{interval(score)}\0" if bold else interval(score)
        numbers = {metric: score.f1, f"{metric}_low": score.low, f"{metric}_high": score.high}
        return cls(text, numbers)


def copied(scores: Scores) -> dict[str, str]:
    """Return the page's table of scores as Markdown, CSV and LaTeX."""
    pairs = {pair.systems[0]: pair for pair in scores.comparisons if pair.systems[1] == scores.main}
    rows = []
    for name, system in scores.systems.items():
        cells = {"system": Cell(name, {"system": name})}
        for metric in metrics_in_order(scores):
            cells[HEADERS[metric]] = Cell.of_score(metric, system.scores[metric])
            if metric == PRIMARY and pairs:
                test = pairs[name].metrics[PRIMARY] if name in pairs else None
                difference, p = (test.difference, test.p) if test else (None, None)
                text = _number(difference, "+.2f", "")
                cells[f"{scores.main} ahead by"] = Cell(text, {"ahead_by": difference})
                cells["p"] = Cell(_number(p, ".3f", ""), {"p": p})
        words = system.style.words
        rows.append(cells | {"words": Cell(_number(words, ".1f"), {"words": words})})
    return forms(rows)


def forms(rows: Sequence[Mapping[str, Cell]]) -> dict[str, str]:
    """Return a table (one dict of cells by title per row) as Markdown, CSV and LaTeX."""
    texts = [list(rows[0]), *([one.text for one in row.values()] for row in rows)]
    numbers = [
        {name: value for one in row.values() for name, value in one.numbers.items()} for row in rows
    ]
    lines = io.StringIO()
    file = csv.DictWriter(lines, numbers[0], lineterminator="\n")
    file.writeheader()
    file.writerows(numbers)
    escaped = [[BOLD.sub(r"**\1**", cell(text)) if text else "" for text in row] for row in texts]
    return {"Markdown": markdown(escaped) + "\n", "CSV": lines.getvalue(), "LaTeX": latex(texts)}


def metrics_in_order(scores: Scores) -> list[str]:
    """Return the names of the metrics, PRIMARY first."""
    return sorted(scores.metrics, key=lambda metric: metric != PRIMARY)


def latex(rows: Sequence[Sequence[str]]) -> str:
    """Return a `tabular` for LaTeX's booktabs, header first; text between two NULs is bold."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}

    def escaped(text: str) -> str:  # LaTeX reads a [ after \\ as its option
        text = re.sub(r"[\\~^<>|&%$#_{}]", lambda m: special.get(m[0], f"\\{m[0]}"), text)
        # bold is marked by NULs until here: escaping would break a LaTeX command
        return BOLD.sub(r"\\textbf{\1}", re.sub(r"^\[", "{[}", text))

    lines = [" & ".join(map(escaped, row)) + r" \\" for row in rows]
    columns = "l" + "r" * (len(rows[0]) - 1)
    header = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*header, *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def show(scores: Scores) -> None:
    """Print notes, the conclusion, and tables of systems and paired tests, in 80 columns."""
    for note in scores.notes:
        say(f"note: {note}")
    if sentence := conclusion(scores):
        say(f"\n{sentence}", "bold")
    for titles, *rows in (_score_rows(scores), *_test_tables(scores)):
        rows = [[text if title == HEADERS[PRIMARY] else text.partition(" [")[0]
                 for title, text in zip(titles, row, strict=True)] for row in rows]  # fmt: skip
        say(f"\n{aligned([[SHORT_TITLES.get(title, title) for title in titles], *rows])}")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return a table with aligned columns for a terminal; header first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        padded = [text.rjust(width) for text, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)


def conclusion(scores: Scores) -> str:
    """Say whether the main model beats base, and the strongest baseline.

    The strongest baseline has the highest ROUGE-L; if the model falls behind the strongest baseline
    of another metric, that is said too. Returns "" if there is nothing to compare with.
    """
    main, base, confidence = scores.main, scores.models[0], scores.bootstrap.confidence
    pairs = {pair.systems[0]: pair for pair in scores.comparisons if pair.systems[1] == main}
    baselines = [name for name in pairs if scores.systems[name].kind == "baseline"]
    rivals = {base: base} if base in pairs else {}
    if baselines:
        strongest = scores.highest(PRIMARY, baselines)
        rivals[strongest] = f"the strongest baseline, {strongest},"
    sentence, verb = main, ""
    for name, phrase in rivals.items():
        test, last_verb = pairs[name].metrics[PRIMARY], verb
        if (result := outcome(test, confidence)) == "open":
            verb, points = "does not beat", signed(test.difference)
            rest = f"{phrase.rstrip(',')} ({points} ROUGE-L points, p = {test.p:.2g})"
        else:
            verb = "beats" if result == "better" else "falls behind"
            rest = f"{phrase} by {abs(test.difference):.2f} ROUGE-L points"
        conjunction = ", but" if "beats" in (last_verb, verb) else ", and"
        link = f"{conjunction if last_verb else ''} {verb}" if last_verb != verb else ", and"
        if last_verb == verb == "does not beat":
            link = ", nor"
        sentence += f"{link} {rest}"
    behind = []
    for metric in scores.metrics if baselines and verb != "falls behind" else ():
        test = pairs[name := scores.highest(metric, baselines)].metrics[metric]
        if outcome(test, confidence) == "worse":
            lost = signed(test.difference)
            behind.append(f"By {HEADERS[metric]} it falls behind {name} ({lost} points).")
    return " ".join([f"{sentence}.", *behind]) if rivals else ""


def mistake_table(scores: Scores) -> str:
    """Return the number of examples with each mistake in Markdown, one row per system."""
    names = list(next(iter(scores.systems.values())).mistakes)
    rows = [
        [name, *(_number(count, "d") for count in system.mistakes.values())]
        for name, system in scores.systems.items()
    ]
    return markdown([["system", *(name.replace("_", " ") for name in names)], *rows])


def leaked_table(scores: Scores) -> str:
    """Return the scores without leaked dialogues in Markdown; "" if none or all are leaked."""
    rows = [
        [name, *(f"{means[metric]:.2f}" for metric in scores.metrics)]
        for name, system in scores.systems.items()
        if (means := system.scores_without_leaked)
    ]
    if not scores.leaked or not rows:
        return ""
    return markdown([["system", *(HEADERS[metric] for metric in scores.metrics)], *rows])


def report(result: Analysis) -> str:
    """Return the whole report in Markdown: tables, signatures, ten dialogues side by side."""
    scores, corpus = result.scores, result.corpus
    settings = scores.bootstrap
    baselines = [f"{name}: {text}" for name, text in BASELINES.items() if name in scores.systems]
    parts = [f"# {scores.recipe}: {scores.examples} {scores.split} dialogues"]
    if scores.comparisons:
        parts += [f"**{conclusion(scores)}**", verdict(scores.comparisons[0], settings)]
    parts += [f"Note: {note}." for note in scores.notes]
    parts += [
        table(scores),
        f"ROUGE F1 in percent, mean over the dialogues [{settings.confidence:.0%} interval by "
        f"{settings.resamples} bootstrap resamples]. {'; '.join(baselines)}.",
    ]
    if SIMILARITY in scores.metrics:
        parts.append(ABOUT_SIMILARITY)
    if scores.comparisons:
        parts += ["## Paired tests", *map(markdown, _test_tables(scores))]
    if leaked := leaked_table(scores):
        title = f"## Without the {scores.leaked} dialogues that are also in the training source"
        parts += [title, leaked]
    parts += ["## What goes wrong", mistake_table(scores), "## How it was made"]
    parts += [f"- {name}: `{system.signature}`" for name, system in scores.systems.items()]
    if sentence := adapter_sentence(scores):
        parts.append(f"- {sentence}")
    parts.append("## Side by side")
    step = max(1, scores.examples // SIDE_BY_SIDE)
    for index in range(0, scores.examples, step)[:SIDE_BY_SIDE]:
        if corpus.ids:
            parts.append(f"### {cell(corpus.ids[index])}")
        if corpus.dialogues:
            parts.append(fenced(corpus.dialogues[index]))
        rows = [f"| reference | {cell(text)} |" for text in corpus.references[index]]
        for name in scores.models:
            rows.append(f"| {name} | {cell(result.systems[name].predictions[index])} |")
        parts.append("\n".join(["| | summary |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def adapter_sentence(scores: Scores) -> str:
    """Say how an adapter differs from what the recipe trains; "" if it does not."""
    adapter = scores.adapter
    if not adapter or adapter.trained_otherwise == []:
        return ""
    if adapter.trained_otherwise is None:
        return f"The adapter in {adapter.folder} has no run.json: how it was trained is unknown."
    changed = "; ".join(adapter.trained_otherwise)
    return (
        f"The adapter in {adapter.folder} was trained with other settings than recipe "
        f"{scores.recipe}: {changed}."
    )


def fenced(text: str) -> str:
    """Return text as a code block that no run of backticks in it can end."""
    fence = "`" * max(3, *(1 + len(run) for run in re.findall("`*", text)))
    return f"{fence}text\n{text}\n{fence}"


def _test_tables(scores: Scores) -> list[list[list[str]]]:
    metrics = [name for name in scores.metrics if name == PRIMARY or name not in METRICS]
    return [test_rows(scores, metric) for metric in metrics if scores.comparisons]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, header first."""
    header, *lines = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([header, "|---|" + "---:|" * (len(rows[0]) - 1), *lines])


def _number(value: float | None, spec: str, unknown: str = "-") -> str:
    return unknown if value is None else format(value, spec)


def cell(text: str) -> str:
    """Escape text so that a Markdown table shows it literally: no markup, no HTML, one line."""
    text = re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))
    return text or "(empty)"
