"""Compare runs: `python -m eval.compare RUN RUN ...`; RUN: a recipe, a results folder or a file.

Makes one table (settings that differ, ROUGE with intervals, length, mistakes, minutes, memory),
tests every pair of runs with Holm's correction, and writes a page with the report's example
browser. Runs may differ in prompt, model, adapter and decoding; all are scored again the same way.
"""

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from data_prep.errors import UserError, atomic_files, check_outputs, run_cli
from data_prep.options import Options
from data_prep.settings import Rouge
from eval.adapter import PROMPT
from eval.analysis import Analysis, analyse
from eval.baselines import add_baselines
from eval.html_report import page
from eval.metrics import SIMILARITY
from eval.outputs import FieldNames, load
from eval.predictions import key_file
from eval.report import HEADERS, Cell, aligned, cell, forms, markdown, test_rows
from eval.score import ROUGE_EXAMPLE, rouge_of, rouge_options
from eval.scores import PRIMARY, Bootstrap, Scores
from eval.stats import outcome, paired_tests

ORDER = ("tuned", "merged", "base")  # of a results folder, the first of these is compared
MAX_WIDTH = 32  # characters of a setting's value in the table
# Settings of the trained recipe that do not apply: the evaluation may have used another decoding,
# and all runs are scored the same way.
OF_EVALUATION = re.compile(r"summarization\.(decoding|rouge|language|training_rouge)\b.*")


@dataclass
class Run:
    """A run: its predictions file, and the scores in its results folder; None for a lone file."""

    name: str
    file: Path
    scores: Scores | None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the recipe as trained, and of the decoding; {} if unknown."""
        if not (scores := self.scores) or not scores.settings:  # written before version 3
            return {}
        settings = {"model": self.file.stem.removeprefix("predictions.")}
        settings["base_model"] = scores.settings.get("base_model", "")
        for key, value in scores.settings.items():
            applies = self.is_trained or re.fullmatch(PROMPT, key)
            if applies and not OF_EVALUATION.fullmatch(key):
                settings[key] = value
        decoding = scores.decoding.model_dump() if scores.decoding else {}
        return settings | {f"decoding.{name}": value for name, value in decoding.items()}

    @property
    def is_trained(self) -> bool:
        """Whether this model was trained."""
        return self.file.stem in ("predictions.tuned", "predictions.merged")


@dataclass
class Comparison:
    """Runs on the same dialogues; `p`: Holm-corrected p-values by metric and pair of names."""

    runs: list[Run]
    analysis: Analysis
    p: dict[str, dict[tuple[str, str], float]]
    settings: dict[str, list[str]]  # those that differ: key, and one value per run

    @property
    def scores(self) -> Scores:
        """The scores of all runs, in the form that `eval.score` returns."""
        return self.analysis.scores

    def alike(self, metric: str) -> tuple[str, list[str]]:
        """Return the highest run by a metric, and the runs not significantly different from it."""
        level = round(1 - self.scores.bootstrap.confidence, 12)
        highest = self.scores.highest(metric, [run.name for run in self.runs])
        others = [run.name for run in self.runs if run.name != highest]
        return highest, [name for name in others if self.p_of(metric, highest, name) >= level]

    @property
    def best(self) -> dict[str, str | None]:
        """By metric, the run that is better than every other one, or None if no run is."""
        by_metric = {metric: self.alike(metric) for metric in self.scores.metrics}
        return {metric: None if tied else highest for metric, (highest, tied) in by_metric.items()}

    def table(self) -> list[dict[str, Cell]]:
        """Return cells by column title for each run and baseline; a metric's best is bold."""
        short_values = {key: shortened(values) for key, values in self.settings.items()}
        best = self.best
        rows = []
        for n, (name, system) in enumerate(self.scores.systems.items()):
            run = self.runs[n] if self.runs[n:] else None  # baselines follow the runs
            row = {"run": Cell(name, {"run": name})}
            for key, values in self.settings.items():
                value, text = (values[n], short_values[key][n]) if run else ("-", "-")
                row[key] = Cell(text, {key: "" if value == "-" else value})
            for metric, score in system.scores.items():
                row[HEADERS[metric]] = Cell.of_score(metric, score, best[metric] == name)
            training = run.scores.training if run and run.scores and run.is_trained else None
            mistakes = sum(map(bool, self.analysis.mistakes[name]))
            for title, number, spec in (
                ("words", system.style.words, ".1f"),
                ("mistakes", mistakes, "d"),
                ("minutes", training and training.minutes, ".2f"),
                ("memory (GB)", training and training.peak_memory_gb, ".2f"),
            ):
                shown = "" if number is None else format(number, spec)
                row[title] = Cell(shown or "-", {title: shown})
            rows.append(row)
        return rows

    def forms(self) -> dict[str, str]:
        """Return the table as Markdown (with verdicts and tests), as CSV and as LaTeX."""
        texts = forms(self.table())
        tests = [list(map(cell, row)) for row in self.tests()]
        texts["Markdown"] += f"\n{cell(' '.join(self.verdicts()))}\n\n{markdown(tests)}\n"
        return texts

    def tests(self) -> list[list[str]]:
        """Return a header and a row per pair of runs: difference in ROUGE-L and corrected p."""
        return test_rows(self.scores, holm=self.p[PRIMARY])

    def verdicts(self) -> list[str]:
        """Say which run is best by which metrics, or which runs the tests cannot tell apart."""
        others = len(self.runs) - 1
        sentences: dict[str, list[str]] = {}  # a sentence, and the metrics for which it is true
        for metric in self.scores.metrics:
            highest, tied = self.alike(metric)
            sentence = f"{highest} is better than {'the' if others == 1 else 'every'} other run"
            if tied:
                sentence = f"no run is the best: {highest} cannot be told apart from "
                sentence += "any other run" if len(tied) == others else ", ".join(tied)
            sentences.setdefault(sentence, []).append(HEADERS[metric])
        lines = [f"By {', '.join(metrics)}: {sentence}." for sentence, metrics in sentences.items()]
        return lines + self._against_baseline()

    def _against_baseline(self) -> list[str]:
        """Say whether the run with the highest ROUGE-L beats the strongest baseline, if any."""
        names, scores = [run.name for run in self.runs], self.scores
        if not (baselines := [name for name in scores.systems if name not in names]):
            return []
        baseline, best = scores.highest(PRIMARY, baselines), scores.highest(PRIMARY, names)
        means, values = self.analysis.corpus.means, self.analysis.values
        tests = paired_tests(means(values[baseline]), means(values[best]), scores.bootstrap)
        test = tests[scores.metrics.index(PRIMARY)]
        verbs = {"better": "beats", "worse": "falls behind", "open": "does not beat"}
        verb = verbs[outcome(test, scores.bootstrap.confidence)]
        return [
            f"{best}, which has the highest ROUGE-L, {verb} the strongest baseline, {baseline} "
            f"({test.difference:+.2f} points, p = {test.p:.2g})."
        ]

    def p_of(self, metric: str, one: str, other: str) -> float:
        """Return the corrected p-value of two runs, in either order."""
        pair = (one, other) if (one, other) in self.p[metric] else (other, one)
        return self.p[metric][pair]


def compare(runs: Sequence[str | Path], **scoring: Any) -> Comparison:
    """Compare runs, each given as on the command line (`[NAME=]RUN`).

    `scoring`: `language`, `tokenizer`, `stemmer`, `lsum`, `strip`; by default, as the runs were
    scored. Raises UserError if a run is missing, or if the runs differ in their dialogues or in
    how they were scored.
    """
    found_runs = find_runs([str(run) for run in ([runs] if isinstance(runs, str) else runs)])
    if len(found_runs) < 2:
        raise UserError("give two runs or more: recipes, results folders or predictions files")
    rouge, language = _common_scoring(found_runs, scoring)
    files = {run.name: run.file for run in found_runs}
    systems, corpus = load(files, None, FieldNames(), strip=rouge.strip, of_models=False)
    names = list(systems)
    systems |= add_baselines({}, corpus)
    pairs = [(one, other) for n, one in enumerate(names) for other in names[n + 1 :]]
    with_similarity = all(run.scores and SIMILARITY in run.scores.metrics for run in found_runs)
    analysis = analyse(
        systems,
        corpus,
        Bootstrap(resamples=max(1000, 100 * len(pairs))),  # so that Holm's p can be below 0.05
        more=["rouge", "embedding"] if with_similarity else (),
        rouge=rouge,
        language=language,
        pairs=pairs,
    )
    tests = {pair.systems: pair.metrics for pair in analysis.scores.comparisons}
    p = {
        metric: dict(zip(pairs, holm([tests[pair][metric].p for pair in pairs]), strict=True))
        for metric in analysis.scores.metrics
    }
    analysis.scores.date = datetime.now(UTC).date().isoformat()
    return Comparison(found_runs, analysis, p, _differing([run.settings for run in found_runs]))


def holm(p_values: Sequence[float]) -> list[float]:
    """Apply Holm's step-down correction (1979) to the p-values of a family of tests."""
    order = np.argsort(p_values, kind="stable")
    count = len(p_values)
    corrected = np.maximum.accumulate(
        [min(1.0, (count - rank) * p_values[index]) for rank, index in enumerate(order)]
    )
    result = np.empty(count)
    result[order] = corrected
    return result.tolist()


def find_runs(values: list[str]) -> list[Run]:
    """Find the runs; each has the name given, or else that of its recipe, folder or file."""
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
            own_name = path.name
        elif path.is_file():
            file, own_name = path, path.stem.removeprefix("predictions.")
        else:
            raise UserError(
                f"{text}: no such results ({path}); give a recipe that was evaluated, a results "
                "folder or a predictions file"
            )
        scores_path = file.parent / "scores.json"
        has_scores = file.name.startswith("predictions.") and scores_path.is_file()
        taken = {run.name for run in runs}
        name = name or (own_name if own_name not in taken else f"{path.parent.name}/{own_name}")
        if any(run.file.resolve() == file.resolve() for run in runs):
            raise UserError(f"{text}: is given twice; give each run once")
        if name in taken:
            raise UserError(f"two runs are named {name}; write NAME={text}")
        runs.append(Run(name, file, Scores.read(scores_path) if has_scores else None))
    return runs


def _common_scoring(runs: list[Run], given: dict[str, Any]) -> tuple[Rouge, str]:
    """Return the ROUGE settings and the language: those `given`, else the runs' common ones.

    Raises UserError if the runs differ in a setting that is not given, in the split, or in the
    number of dialogues.
    """
    run_scores = {run.name: run.scores for run in runs if run.scores}
    # files from before version 3 have no such settings; each line was a sentence then
    old_rouge = Rouge(tokenizer="english", stemmer="porter", lsum="lines")
    scoring = {
        name: {
            **(scores.rouge or old_rouge).model_dump(),
            "language": scores.language,
            "split": scores.split,
            "number of dialogues": scores.examples,
        }
        for name, scores in run_scores.items()
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    for key in next(iter(scoring.values()), {}):
        values = {name: settings[key] for name, settings in scoring.items()}
        if key not in chosen and len(set(values.values())) > 1:
            listed = ", ".join(f"{name}: {value}" for name, value in values.items())
            fix = f"choose one for all, for example --{key} {next(iter(values.values()))}"
            if key in ("split", "number of dialogues"):
                fix = "run `python -m eval.run` with the same --split and --limit"
            raise UserError(f"the runs differ in {key} ({listed}); {fix}")
        chosen.setdefault(key, next(iter(values.values())))
    language = chosen.pop("language", "en")
    fields = {name: value for name, value in chosen.items() if name in Rouge.model_fields}
    return rouge_of(**fields), language


def _differing(settings: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return, for each key on which two runs differ, every run's value as text."""
    differing = {}
    for key in dict.fromkeys(key for run in settings for key in run):
        values = [run.get(key, "-") for run in settings]
        texts = [v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
        if len({text for text, run in zip(texts, settings, strict=True) if key in run}) > 1:
            differing[key.removeprefix("summarization.")] = texts
    return differing


def shortened(values: list[str]) -> list[str]:
    """Return each run's value on one line; long ones start just before the first difference."""
    lines = [" ".join(text.split()) for text in values]
    start = max(0, len(os.path.commonprefix([text for text in lines if text != "-"])) - 8)
    pieces = [text if len(text) <= MAX_WIDTH or not start else f"…{text[start:]}" for text in lines]
    return [text if len(text) <= MAX_WIDTH else f"{text[: MAX_WIDTH - 1]}…" for text in pieces]


def html(compared: Comparison, folder: Path = Path()) -> str:
    """Return the page: table, tests, full settings, examples. `folder`: the page's, for links."""
    files = {}
    for run in compared.runs:
        for path in (run.file, run.file.with_name("report.html")):
            if path.is_file():
                link = quote(os.path.relpath(path, folder).replace(os.sep, "/"))
                files[f"{run.name}/{path.name}"] = link
    names = compared.scores.models
    best = compared.scores.highest(PRIMARY, names)
    return page(
        "compare.html.j2",
        compared.analysis,
        last=names[-1],
        best=best,
        p_of_best={n: compared.p_of(PRIMARY, n, best) for n in names if n != best},
        compared=compared,
        rows=compared.table(),
        copies=compared.forms(),
        files=files,
    )


def main() -> None:
    """Compare, print, and write the page and the other requested files."""
    args = _arguments()
    scoring_names = ("language", "tokenizer", "stemmer", "lsum", "strip")
    paths = [path for path in (args.output, args.csv, args.latex, args.markdown) if path]
    inputs = [Path(run.partition("=")[2] or run) for run in args.runs]
    for run in find_runs(args.runs):
        inputs += [run.file, key_file(run.file), run.file.with_name("scores.json")]
    check_outputs(*paths, inputs=inputs)
    compared = compare(args.runs, **{name: getattr(args, name) for name in scoring_names})
    contents = {args.output: html(compared, args.output.parent)}
    table_paths = {"CSV": args.csv, "LaTeX": args.latex, "Markdown": args.markdown}
    contents |= {path: compared.forms()[form] for form, path in table_paths.items() if path}
    with atomic_files(Path(), *map(str, contents)) as files:
        for path, content in contents.items():
            files[str(path)].write(content)
    rows = [[entry.text.strip("\0") for entry in row.values()] for row in compared.table()]
    print(aligned([list(compared.table()[0]), *rows]))
    print(f"\n{aligned(compared.tests())}\n")
    notes = [f"note: {note}" for note in compared.scores.notes]
    print("\n".join([*notes, *compared.verdicts(), *map(str, contents)]))


def _arguments() -> argparse.Namespace:
    parser = Options(
        "eval.compare",
        "Compare runs: settings that differ, ROUGE, tests of every pair, and a page.",
        "recipes/smollm2_samsum.yml small=my_recipe.yml other.jsonl --output results/compare.html",
        "results/a results/b --csv table.csv --latex table.tex --markdown table.md",
        ROUGE_EXAMPLE.format("results/a results/b"),
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="[NAME=]RUN", help="recipe, results folder or predictions file")
    add("--output", type=Path, default=Path("results/compare.html"), help="HTML page to write")
    add("--csv", type=Path, help="file for the table as CSV, one number per column (default: none)")
    add("--latex", type=Path, help="file for the table in LaTeX with booktabs (default: none)")
    add("--markdown", type=Path, help="file for table and tests in Markdown (default: none)")
    rouge_options(parser)
    defaults = dict.fromkeys(("language", "tokenizer", "stemmer", "lsum", "strip"))
    parser.set_defaults(**defaults)  # None: as the runs were scored
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
