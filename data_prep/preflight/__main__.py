"""Look at a recipe before any GPU time is spent: `python -m data_prep.preflight [RECIPE]`.

Recipe, data, prompt, lengths, steps, memory, time, output folder. Training does the same at its
start. Exit code 2, with a numbered list, where something is wrong.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from data_prep.errors import UserError, run_cli
from data_prep.manifest import check_prepared
from data_prep.preflight.look import Report, look, sample, show
from data_prep.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from data_prep.training import run_record
from data_prep.training.adapter import finished, settings_of
from data_prep.training.checkpoints import newest_whole


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
    from data_prep.training.machine import machine_problems

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
        prog="python -m data_prep.preflight",
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


if __name__ == "__main__":
    run_cli(main)
