"""Check a recipe before any GPU time is spent: `python -m training.preflight [RECIPE]`.

Recipe, data, prompt, lengths, steps, memory, output folder. Training does the same at its start.
Exit code 2, with a numbered list, where something is wrong.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from data_prep.errors import UserError, run_cli
from data_prep.hub import check_weights
from data_prep.options import Options
from data_prep.prepare import check_prepared
from data_prep.prompt import PromptEncoder
from data_prep.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from data_prep.recipe_file import YamlFile
from data_prep.strict import OUR_PLUGIN, find_problems, read_yaml
from eval.adapter import finished, settings_of
from training import run_record
from training.checkpoints import newest_whole
from training.machine_checks import machine_problems
from training.model_checks import check_model
from training.plan import count_tokens, evaluation_problems, length_problems, overlong_lines, plan
from training.prompt_checks import EncodedRow, check_parity


@dataclass
class Report:
    """What preflight found: `lines`, each with its topic, and `problems`, one line each."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    example: EncodedRow | None = None

    def say(self, topic: str, *texts: str) -> None:
        """Add lines under a topic."""
        self.lines += [(topic, text) for text in texts]

    def show(self, write: Callable[[str], None] = print) -> None:
        """Print the lines, each topic once."""
        for topic, group in groupby(self.lines, lambda line: line[0]):
            for number, (_, text) in enumerate(group):
                write(f"{'' if number else topic:<8}{text}".rstrip())


def main() -> None:
    """Print what preflight finds; end with 2 where that is a problem."""
    args = _arguments()
    config = YamlFile(args.recipe).data
    config = config if isinstance(config, dict) else read_yaml(args.recipe)
    for line in foreign_code(config):  # before it runs, which is right below
        print(f"{'code':<8}{line}", flush=True)
    report, processes = Report(), run_record.processes()
    recipe = _strict(args.recipe, config, report)
    if recipe:
        check_recipe(recipe, report, processes, args.gpu_memory)
        if not report.problems:
            _check_output(recipe, report, processes)
            # what this machine lacks is no problem: a recipe is often checked on another one
            lacks = machine_problems(recipe.path, recipe.config)
            report.say("machine", *(lacks or ["this one has what the recipe asks for"]))
        if report.example and not args.no_sample:
            report.say("sample", *sample(recipe, report.example, args.color))
    report.show()
    if report.problems:
        sys.stdout.flush()
        for number, problem in enumerate(report.problems, 1):
            print(f"{number}. {problem}", file=sys.stderr)
        sys.exit(2)
    print("ready: nothing wrong found")


def _arguments() -> argparse.Namespace:
    parser = Options(
        "training.preflight", __doc__.splitlines()[0], "recipes/smollm2_samsum.yml",
        "recipes/mistral_samsum.yml --gpu-memory 24 --no-sample",
        "recipes/smollm2_samsum.yml --color", "recipes/smollm2_samsum.yml --no-color",
    )  # fmt: skip
    add = parser.add_argument
    add("recipe", type=Path, nargs="?", default=DEFAULT_RECIPE, help="its file")
    add("--gpu-memory", type=float, metavar="GB", help="of the card that will train it (default: "
        "of the one here, if there is one)")  # fmt: skip
    add("--no-sample", action="store_true", help="do not print a row of the data")
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    add("--color", action=argparse.BooleanOptionalAction, default=color,
        help="mark trained tokens by colour instead of [[ ]]")  # fmt: skip
    return parser.parse_args()


def foreign_code(config: dict[str, Any]) -> Iterator[str]:
    """What a recipe lets run besides this program, in preflight too: its author is trusted."""
    names, attention = config.get("plugins"), str(config.get("attn_implementation"))
    plugins = (
        [repr(name) for name in names if name != OUR_PLUGIN] if isinstance(names, list) else []
    )
    if plugins:
        yield f"`plugins:` runs the code of {', '.join(plugins)}, here and in training"
    if config.get("trust_remote_code"):
        base = config.get("base_model")
        yield f"`trust_remote_code:` runs the code that {base!r} brings, here and in every command"
    if "/" in attention:
        yield f"`attn_implementation:` runs the code of the hub's {attention!r} in training"


def _strict(path: Path, config: dict[str, Any], report: Report) -> Recipe | None:
    """The recipe, where nothing in it is wrong by itself."""
    report.problems += find_problems(path, config)
    if report.problems:
        return None
    known = f"every key is one of Axolotl {version('axolotl')}'s or ours, and has an effect"
    report.say("recipe", f"{path}: {known}")
    return load_recipe(path)


def check_recipe(
    recipe: Recipe, report: Report, processes: int, gpu_memory: float | None = None
) -> None:
    """Everything that comes after the recipe itself; training calls this too.

    Ends with the first topic that has a problem, since the next ones need it in order.
    `gpu_memory`: GB of the card that will train it, where it is not the one here.
    """
    try:
        manifest = check_prepared(recipe)
        rows = ", ".join(f"{n.written:,} {split}" for split, n in manifest.counts.items())
        report.say("data", f"{recipe.data_dir}: {rows} rows; the files are those of the manifest,")
        report.say("data", "and the manifest's settings those of the recipe")
        report.say("data", *(f"note: {note}" for note in manifest.notes))

        problems, line = check_weights(recipe)
        report.problems += problems
        report.say("model", *filter(None, [line]))
        if report.problems:
            return

        parity = check_parity(recipe)
        report.problems += parity.problems
        report.example = parity.example
        report.say("prompt", *parity.checked, f"a turn ends on {parity.end}")
        if parity.encoder and parity.example and not report.problems:
            end = parity.example.trained[-1]
            report.problems, lines = check_model(recipe, parity.encoder.tokenizer, end)
            report.say("adapter", *lines)
        if not report.problems:
            _check_work(recipe, report, processes, gpu_memory)
    except UserError as error:
        report.problems.append(" ".join(str(error).split()))


def _check_work(recipe: Recipe, report: Report, processes: int, gpu_memory: float | None) -> None:
    """Lengths, steps, and the least memory."""
    import torch

    from training.memory import least_memory, too_small

    lengths = count_tokens(recipe)
    report.say("length", *overlong_lines(recipe, lengths))
    report.problems += [*length_problems(recipe, lengths), *evaluation_problems(recipe)]
    if report.problems:
        return
    work = plan(recipe, lengths["train"], processes)
    report.say("steps", *work.lines)
    least = least_memory(recipe, work.largest_batch)
    if least is None:
        report.say("memory", "no lower bound: this is no LoRA, or a GPU does not hold all weights")
        return
    report.say("memory", *least.lines)
    card, size = "the card of --gpu-memory", (gpu_memory or 0) * 1e9
    if gpu_memory is None and torch.cuda.is_available():
        card, size = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    if size and least.total > size:
        report.problems.append(too_small(recipe, least, card, size))


def _check_output(recipe: Recipe, report: Report, processes: int) -> None:
    """What a training would do in the output folder."""
    folder = recipe.output_dir
    report.problems += run_record.output_dir_problems(recipe.path, recipe.config)
    if report.problems:
        return
    try:
        settings = settings_of(recipe.config, check_prepared(recipe).files, processes)
        if explicit := recipe.config.get("resume_from_checkpoint"):
            run_record.check_resume(Path(str(explicit)), settings, processes)
        run_record.check_same_run(folder, settings)
    except UserError as error:
        report.problems.append(str(error))
        return
    steps, newest = finished(folder), newest_whole(folder, processes)
    found = f"resumes from {newest.name}" if newest else "nothing there yet"
    if steps is not None:
        found = f"already trained by this recipe on these data, {steps} steps"
    report.say("output", f"{folder}: {found}")


def sample(recipe: Recipe, row: EncodedRow, color: bool) -> Iterator[str]:
    """Lines of one row as the model sees it, what the loss covers marked."""
    tokenizer = PromptEncoder(recipe).tokenizer
    on, off = ("\033[1;32m", "\033[0m") if color else ("[[", "]]")
    trained = [label != -100 for label in row.labels]
    text = ""
    for marked, run in groupby(zip(trained, row.ids, strict=True), lambda pair: pair[0]):
        part = tokenizer.decode([token for _, token in run], skip_special_tokens=False)
        text += f"{on}{part}{off}" if marked else part
    yield f"{sum(trained)} of {len(row.ids)} tokens are trained on, marked:"
    yield from text.split("\n")


if __name__ == "__main__":
    run_cli(main)
