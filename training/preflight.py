"""Look at a recipe before any GPU time is spent: `python -m training.preflight [RECIPE]`.

Recipe, data, prompt, lengths, steps, memory, time, output folder. Training does the same at its
start. Exit code 2, with a numbered list, where something is wrong.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.errors import UserError, run_cli
from data_prep.prepare import check_prepared
from data_prep.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from eval.adapter import finished, settings_of
from training import run_record
from training.checkpoints import newest_whole


@dataclass
class Report:
    """What preflight found: `lines` of `(topic, text)`, and `problems`, one line each."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    example: tuple[list[int], list[int]] = ([], [])

    def say(self, topic: str, *texts: str) -> None:
        """Add lines under a topic."""
        self.lines += [(topic, text) for text in texts]


def main() -> None:
    """Print what preflight finds; end with 2 where that is a problem."""
    args = _arguments()
    report = Report()
    recipe = _strict(args.recipe, report)
    if recipe:
        processes = run_record.processes()
        look(recipe, report, processes)
        if not report.problems:
            _folder(recipe, report, processes)
            _machine(recipe, report)
    show(report.lines)
    if recipe and report.example[0] and not args.no_sample:
        show([("sample", text) for text in sample(recipe, report.example, args.color)])
    if report.problems:
        sys.stdout.flush()
        for number, problem in enumerate(report.problems, 1):
            print(f"{number}. {problem}", file=sys.stderr)
        sys.exit(2)
    print("ready: nothing wrong found")


def _strict(path: Path, report: Report) -> Recipe | None:
    """The recipe, where nothing in it is wrong by itself."""
    from data_prep.strict.problems import find_problems, read_yaml
    from data_prep.strict.yaml_lines import YamlFile

    config = YamlFile(path).data
    report.problems += find_problems(path, config if isinstance(config, dict) else read_yaml(path))
    if report.problems:
        return None
    from importlib.metadata import version

    known = f"every key is one of Axolotl {version('axolotl')}'s or ours, and has an effect"
    report.say("recipe", f"{path}: {known}")
    return load_recipe(path)


def _folder(recipe: Recipe, report: Report, processes: int) -> None:
    try:
        report.say("output", *_output(recipe, processes))
    except UserError as error:
        report.problems.append(str(error))


def _machine(recipe: Recipe, report: Report) -> None:
    """Said, and no problem here: a recipe is often looked at before it goes to its GPU."""
    from training.machine_checks import machine_problems

    lacks = machine_problems(recipe.path, recipe.config)
    report.say("machine", *(lacks or ["this one has what the recipe asks for"]))


def _output(recipe: Recipe, processes: int) -> Iterator[str]:
    folder = recipe.output_dir
    for problem in run_record.output_dir_problems(recipe.path, recipe.config):
        raise UserError(problem)
    files = check_prepared(recipe)["files"]
    settings = settings_of(recipe.config, files, processes)
    if explicit := recipe.config.get("resume_from_checkpoint"):
        run_record.check_resume(Path(str(explicit)), settings, processes)
    if changed := run_record.changes(folder, settings):
        raise UserError(run_record.refusal(folder, changed))
    steps, checkpoint = finished(folder), newest_whole(folder, processes)
    if steps is not None:
        yield f"{folder}: already trained by this recipe on these data, {steps} steps"
    elif checkpoint:
        yield f"{folder}: resumes from {checkpoint.name}"
    else:
        yield f"{folder}: nothing there yet"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.preflight",
        description="Look at a recipe before any GPU time is spent.",
    )
    parser.add_argument("recipe", type=Path, nargs="?", default=DEFAULT_RECIPE)
    parser.add_argument("--no-sample", action="store_true", help="do not print a row of the data")
    parser.add_argument(
        "--color",
        action=argparse.BooleanOptionalAction,
        default=sys.stdout.isatty() and "NO_COLOR" not in os.environ,
        help="mark trained tokens by colour instead of [[ ]]",
    )
    return parser.parse_args()


def look(recipe: Recipe, report: Report, processes: int) -> None:
    """Everything that comes after the recipe itself; training calls this too."""
    steps: tuple[Callable[[], Any], ...] = (
        lambda: _data(recipe, report),
        lambda: _weights(recipe, report),
        lambda: _prompt(recipe, report),
        lambda: _work(recipe, report, processes),
    )
    for step in steps:  # each needs what the one before it found in order
        try:
            step()
        except UserError as error:
            report.problems.append(" ".join(str(error).split()))
        if report.problems:
            return


def _data(recipe: Recipe, report: Report) -> None:
    manifest = check_prepared(recipe)
    counts = {split: n["written"] for split, n in manifest["counts"].items()}
    rows = ", ".join(f"{n:,} {split}" for split, n in counts.items())
    report.say("data", f"{recipe.data_dir}: {rows} rows; the files are those of the manifest,")
    report.say("data", "and the manifest's settings those of the recipe")


def _weights(recipe: Recipe, report: Report) -> None:
    from data_prep.hub import look_at_weights

    problems, line = look_at_weights(recipe)
    report.problems += problems
    report.say("model", *filter(None, [line]))


def _prompt(recipe: Recipe, report: Report) -> None:
    from training.prompt_checks import check_parity

    parity = check_parity(recipe)
    report.problems += parity.problems
    report.example = parity.example
    report.say("prompt", *parity.checked, f"a turn ends on {parity.end}")


def _work(recipe: Recipe, report: Report, processes: int) -> None:
    """Lengths, steps, memory, time, generated ROUGE."""
    from training.estimate import lines
    from training.plan import lengths, overlong

    counts = lengths(recipe)
    for found in overlong(recipe, counts):
        report.say("length", str(found))
        if found.rows and found.strategy == "raise":
            report.problems.append(f"{recipe.path}: {found}")
    for topic, text in lines(recipe, counts, processes):
        report.say(topic, text)


def sample(recipe: Recipe, example: tuple[list[int], list[int]], color: bool) -> Iterator[str]:
    """Lines of one row as the model sees it, what the loss covers marked."""
    from data_prep.prompt import PromptEncoder

    tokenizer = PromptEncoder(recipe).tokenizer
    on, off = ("\033[1;32m", "\033[0m") if color else ("[[", "]]")
    ids, labels = example
    text, trained = "", False
    start = 0
    for place in range(len(ids) + 1):
        is_trained = place < len(ids) and labels[place] != -100
        if place == len(ids) or is_trained != trained:
            run = tokenizer.decode(ids[start:place], skip_special_tokens=False)
            text += f"{on}{run}{off}" if trained and run else run
            start, trained = place, is_trained
    yield f"{sum(label != -100 for label in labels)} of {len(ids)} tokens are trained on, marked:"
    yield from text.split("\n")


def show(lines: list[tuple[str, str]]) -> None:
    """Print lines, each topic once."""
    previous = ""
    for topic, text in lines:
        print(f"{topic if topic != previous else '':<8}{text}".rstrip())
        previous = topic


if __name__ == "__main__":
    run_cli(main)
