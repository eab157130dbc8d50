"""Compare runs: `python -m eval.compare RUN RUN ...`, each a recipe, a results folder or a file.

One table (the settings that differ, ROUGE with intervals, length, mistakes, minutes, memory), every
two runs tested with Holm's correction, and a page with the same example browser as the report.
Runs may differ in prompt, model, adapter and decoding; all are scored again in the same way.
"""

import argparse
import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import UserError, run_cli, whole_file
from data_prep.settings import Rouge
from eval.analysis import Analysis, analyse
from eval.baselines import System, lead, longest
from eval.html_report import page
from eval.metrics import SIMILARITY
from eval.outputs import FieldNames, load
from eval.report import HEADERS, aligned, cell, markdown
from eval.score import rouge_of, rouge_options
from eval.scores import PRIMARY, Bootstrap, PairedTest, Score, Scores

ORDER = ("tuned", "merged", "base")  # which model of a results folder is meant
SHORT = 32  # letters of a setting's value in the table
# The recipe that a training kept may ask for another decoding than the evaluation's, and all runs
# are scored alike.
OF_EVALUATION = re.compile(r"summarization\.(decoding|rouge|language|training_rouge)\b.*")
FACTS = ["words", "mistakes", "minutes", "memory (GB)"]


@dataclass
class Run:
    """A run: its predictions file, and what its results folder tells; None for a lone file."""

    name: str
    file: Path
    scores: Scores | None

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the recipe as it was trained, and of the decoding; {} where unknown."""
        if not (scores := self.scores):
            return {}
        own = {
            "model": self.file.stem.removeprefix("predictions."),
            "base_model": scores.base_model,
        }
        own |= {k: v for k, v in scores.settings.items() if not OF_EVALUATION.fullmatch(k)}
        decoding = scores.decoding.model_dump() if scores.decoding else {}
        return own | {f"decoding.{name}": value for name, value in decoding.items()}

    @property
    def is_tuned(self) -> bool:
        """Whether a training made this model."""
        return self.file.stem == "predictions.tuned"


@dataclass
class Comparison:
    """Runs on the same dialogues; `p` are Holm-corrected p-values by metric and pair of names.

    `best`: by metric, the run that is better than each other one, or None where no run is.
    """

    runs: list[Run]
    analysis: Analysis
    p: dict[str, dict[tuple[str, str], float]]
    best: dict[str, str | None]
    settings: dict[str, list[str]]  # those that differ: key, and the value of each run

    @property
    def scores(self) -> Scores:
        """The scores of all runs, as `eval.score` gives them."""
        return self.analysis.scores

    def table(self, bold: Callable[[str], str] = str) -> list[list[str]]:
        """The table as rows of cells, its header first; `bold` marks the best of a metric."""
        metrics = self.scores.metrics
        rows = [["run", *self.settings, *(HEADERS[metric] for metric in metrics), *FACTS]]
        for n, (name, system) in enumerate(self.scores.systems.items()):
            own = [
                shortened(values[n]) if self.runs[n:] else "-" for values in self.settings.values()
            ]
            cells = {m: interval(system.scores[m]) for m in metrics}
            marked = [bold(text) if self.best[m] == name else text for m, text in cells.items()]
            rows.append([name, *own, *marked, *self.facts(n)])
        return rows

    def facts(self, place: int) -> list[str]:
        """The cells below FACTS of the system in this place; baselines follow the runs."""
        system = list(self.scores.systems.values())[place]
        run = self.runs[place] if self.runs[place:] else None
        took = run.scores.training if run and run.scores and run.is_tuned else None
        numbers = [
            (system.style.words, ".1f"),
            (sum(count for count in system.mistakes.values() if count is not None), "d"),
            (took and took.minutes, ".2f"),
            (took and took.peak_memory_gb, ".2f"),
        ]
        return ["-" if value is None else format(value, form) for value, form in numbers]

    def verdicts(self) -> list[str]:
        """Which run is the best by which metrics, or which ones the tests cannot tell apart."""
        names, systems = [run.name for run in self.runs], self.scores.systems
        level = round(1 - self.scores.bootstrap.confidence, 12)
        said: dict[str, list[str]] = {}  # a sentence, and the metrics of which it holds
        for metric, best in self.best.items():
            if best:
                others = "the other run" if len(names) == 2 else "each other run"
                sentence = f"{best} is better than {others}"
            else:
                first = max(names, key=lambda name: systems[name].scores[metric].f1)
                near = [n for n in names if n != first and self.p_of(metric, first, n) >= level]
                sentence = f"no run is the best: {first} cannot be told from {', '.join(near)}"
                if len(near) == len(names) - 1:
                    sentence = "no run is the best; the highest cannot be told from any other"
            said.setdefault(sentence, []).append(HEADERS[metric])
        return [f"By {', '.join(metrics)}: {sentence}." for sentence, metrics in said.items()]

    def p_of(self, metric: str, one: str, other: str) -> float:
        """The corrected p-value of two runs, in either order."""
        pair = (one, other) if (one, other) in self.p[metric] else (other, one)
        return self.p[metric][pair]


def compare(
    runs: Sequence[str | Path], rouge: Rouge | None = None, language: str | None = None
) -> Comparison:
    """Compare runs, each named as on the command line (`[NAME=]RUN`).

    `rouge` and `language`: by default those with which the runs were scored. Raises UserError where
    a run is missing, or the runs are on other dialogues or were scored in another way.
    """
    found = find_runs([str(run) for run in runs])
    if len(found) < 2:
        raise UserError("give two runs or more: recipes, results folders or predictions files")
    asked = rouge or _same_scoring(found)
    language = language or next((run.scores.language for run in found if run.scores), "en")
    files = {run.name: run.file for run in found}
    systems, corpus = load(files, None, FieldNames(), strip=asked.strip, of_models=False)
    names = list(systems)
    if corpus.dialogues is not None:
        systems["lead-3"] = System([lead(text) for text in corpus.dialogues], "baseline")
        systems["longest-3"] = System([longest(text) for text in corpus.dialogues], "baseline")
    pairs = [(one, other) for n, one in enumerate(names) for other in names[n + 1 :]]
    with_similarity = all(run.scores and SIMILARITY in run.scores.metrics for run in found)
    analysis = analyse(
        systems,
        corpus,
        Bootstrap(),
        more=["rouge", "embedding"] if with_similarity else (),
        rouge=asked,
        language=language,
        pairs=pairs,
    )
    tests = {pair.systems: pair.metrics for pair in analysis.scores.comparisons}
    p = {
        metric: dict(zip(pairs, holm([_p(tests[pair][metric]) for pair in pairs]), strict=True))
        for metric in analysis.scores.metrics
    }
    compared = Comparison(found, analysis, p, {}, _differing([run.settings for run in found]))
    level = round(1 - analysis.scores.bootstrap.confidence, 12)
    for metric in analysis.scores.metrics:
        best = max(names, key=lambda name: analysis.scores.systems[name].scores[metric].f1)
        others = [name for name in names if name != best]
        sure = all(compared.p_of(metric, best, name) < level for name in others)
        compared.best[metric] = best if sure else None
    return compared


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): p-values that hold for all tests of a family together."""
    order = np.argsort(p_values, kind="stable")
    count = len(p_values)
    corrected = np.maximum.accumulate(
        [min(1.0, (count - rank) * p_values[place]) for rank, place in enumerate(order)]
    )
    result = np.empty(count)
    result[order] = corrected
    return result.tolist()


def _p(test: PairedTest) -> float:
    return max(test.p_bootstrap, test.p_randomization)


def find_runs(values: list[str]) -> list[Run]:
    """The runs, each under its name or that of its recipe, folder or file."""
    runs: list[Run] = []
    for value in values:
        name, has_name, text = value.partition("=")
        if not has_name or Path(value).exists():
            name, text = "", value
        path = Path(text)
        if path.suffix in (".yml", ".yaml"):
            path = Path("results") / path.stem
        if path.is_dir():
            files = [path / f"predictions.{model}.jsonl" for model in ORDER]
            file = next((file for file in files if file.is_file()), None)
            if not file:
                raise UserError(f"{path}: has no predictions; run `python -m eval.run` first")
            own = path.name
        elif path.is_file():
            file, own = path, path.stem.removeprefix("predictions.")
        else:
            raise UserError(
                f"{text}: no such results ({path}); give a recipe that was evaluated, a results "
                "folder or a predictions file"
            )
        record = file.parent / "scores.json"
        own_file = file.name.startswith("predictions.") and record.is_file()
        taken = {run.name for run in runs}
        name = name or (own if own not in taken else f"{file.parent.name}/{own}")
        if name in taken:
            raise UserError(f"two runs are named {name}; write NAME={text}")
        runs.append(Run(name, file, Scores.read(record) if own_file else None))
    return runs


def _same_scoring(runs: list[Run]) -> Rouge:
    """The settings with which the runs were scored; raises UserError where they differ."""
    known = [run for run in runs if run.scores]
    if not known:
        return Rouge()
    for what in ("split", "examples"):
        values = {run.name: getattr(run.scores, what) for run in known}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name}: {value}" for name, value in values.items())
            raise UserError(
                f"{what} differs ({listed}); compare results on the same dialogues: run "
                "`python -m eval.run` with the same --split and --limit"
            )
    # before version 3 each line was a sentence, whatever the file says now
    scoring = {
        run.name: (
            run.scores.rouge or Rouge(tokenizer="english", lsum="lines"),
            run.scores.language,
        )
        for run in known
        if run.scores
    }
    first = next(iter(scoring))
    for name, settings in scoring.items():
        if settings != scoring[first]:
            raise UserError(
                f"{first} and {name} were scored in different ways ({_said(scoring[first])}; "
                f"{_said(settings)}); score all runs alike, for example with --lsum sentences"
            )
    return scoring[first][0]


def _said(scoring: tuple[Rouge, str]) -> str:
    rouge, language = scoring
    words = f"tokenizer {rouge.tokenizer}, stemmer {rouge.stemmer}, lsum {rouge.lsum}"
    return f"{words}, language {language}{', strip' if rouge.strip else ''}"


def _differing(settings: list[dict[str, Any]]) -> dict[str, list[str]]:
    """By key the runs' values as text, of the settings that the runs with a recipe do not share."""
    found = {}
    for key in dict.fromkeys(key for some in settings for key in some):
        values = [some.get(key, "-") for some in settings]
        texts = [v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
        if len({text for text, some in zip(texts, settings, strict=True) if some}) > 1:
            found[key.removeprefix("summarization.")] = texts
    return found


def interval(score: Score) -> str:
    """`36.23 [35.04, 37.36]`."""
    return f"{score.f1:.2f} [{score.low:.2f}, {score.high:.2f}]"


def shortened(text: str) -> str:
    """A setting's value as the table shows it, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


def as_csv(compared: Comparison) -> str:
    """A line a run, every number in a column of its own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = [f"{metric}{end}" for metric in compared.scores.metrics for end in ("", "_low", "_high")]
    writer.writerow(["run", *compared.settings, *ends, *FACTS])
    for n, (name, system) in enumerate(compared.scores.systems.items()):
        own = [values[n] if compared.runs[n:] else "" for values in compared.settings.values()]
        numbers = [x for score in system.scores.values() for x in (score.f1, score.low, score.high)]
        facts = [fact.removeprefix("-") for fact in compared.facts(n)]
        writer.writerow([name, *own, *numbers, *facts])
    return out.getvalue()


def as_latex(compared: Comparison) -> str:
    """A `tabular` for LaTeX's package booktabs."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}

    def escaped(text: str) -> str:
        return re.sub(r"[\\~^&%$#_{}]", lambda m: special.get(m[0], f"\\{m[0]}"), text)

    lines = [  # the marks of bold survive the escaping, which a command would not
        re.sub("\0(.*?)\0", r"\\textbf{\1}", " & ".join(map(escaped, row))) + r" \\"
        for row in compared.table(lambda text: f"\0{text}\0")
    ]
    columns = "l" + "r" * (len(compared.table()[0]) - 1)
    begin = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*begin, *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_markdown(compared: Comparison) -> str:
    """The table and the tests, as `report.md` has them."""
    rows = [
        [re.sub("\0(.*?)\0", r"**\1**", cell(text)) for text in row]
        for row in compared.table(lambda text: f"\0{text}\0")
    ]
    parts = [markdown(rows), " ".join(compared.verdicts()), markdown(test_rows(compared))]
    return "\n\n".join(parts) + "\n"


def test_rows(compared: Comparison) -> list[list[str]]:
    """A header, and a row for every two runs: the difference in ROUGE-L and the corrected p."""
    header = [HEADERS[PRIMARY], "difference", "interval", "p (Holm)", "better", "worse", "equal"]
    rows = [header]
    for pair in compared.scores.comparisons:
        test, p = pair.metrics[PRIMARY], compared.p[PRIMARY][pair.systems]
        rows.append(
            [
                f"{pair.systems[1]} - {pair.systems[0]}",
                f"{test.difference:+.2f}",
                f"{test.low:+.2f} to {test.high:+.2f}",
                f"{p:.4f}" if p >= 0.001 else "< 0.001",
                *map(str, (pair.better, pair.worse, pair.equal)),
            ]
        )
    return rows


def html(compared: Comparison) -> str:
    """The page: the table, the tests, the settings in full, and the example browser."""
    return page("compare.html.j2", compared.analysis, compared=compared, facts=FACTS)


def main() -> None:
    """Compare, print, and write the page and what else is asked for."""
    args = _arguments()
    asked = args.tokenizer, args.stemmer, args.lsum, args.strip, args.language
    chosen = asked != ("auto", "auto", None, False, None)
    args.lsum = args.lsum or "sentences"
    compared = compare(args.runs, rouge_of(args) if chosen else None, args.language)
    written = {args.output: html(compared)}
    for path, text in ((args.csv, as_csv), (args.latex, as_latex), (args.markdown, as_markdown)):
        if path:
            written[path] = text(compared)
    for path, content in written.items():
        with whole_file(path) as file:
            file.write(content)
    print(aligned(compared.table()))
    print(f"\n{aligned(test_rows(compared))}\n")
    notes = [f"note: {note}" for note in compared.scores.notes]
    print("\n".join([*notes, *compared.verdicts(), *map(str, written)]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare",
        description="Runs side by side: settings that differ, ROUGE, tests of every two, a page.",
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="[NAME=]RUN", help="recipe, results folder or predictions file")
    add("--output", type=Path, default=Path("results/compare.html"), help="the page")
    add("--csv", type=Path, help="the table, every number in a column of its own")
    add("--latex", type=Path, help="the table for LaTeX (booktabs)")
    add("--markdown", type=Path, help="table and tests in Markdown")
    rouge_options(parser)
    parser.set_defaults(lsum=None, language=None)
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
