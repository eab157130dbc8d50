"""What preflight looks at once a recipe is strict: data, prompt, lengths, steps, memory, time.

Used by `python -m data_prep.preflight` and by our plugin at the start of training.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from data_prep.errors import UserError
from data_prep.manifest import check_prepared
from data_prep.recipe import Recipe


@dataclass
class Report:
    """What preflight found: `lines` of `(topic, text)`, and `problems`, one line each."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    example: tuple[list[int], list[int]] = ([], [])

    def say(self, topic: str, *texts: str) -> None:
        """Add lines under a topic."""
        self.lines += [(topic, text) for text in texts]


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
    from data_prep.preflight.weights import look_at_weights

    problems, line = look_at_weights(recipe)
    report.problems += problems
    report.say("model", *filter(None, [line]))


def _prompt(recipe: Recipe, report: Report) -> None:
    from data_prep.preflight.parity import check_parity

    parity = check_parity(recipe)
    report.problems += parity.problems
    report.example = parity.example
    report.say("prompt", *parity.checked, f"a turn ends on {parity.end}")


def _work(recipe: Recipe, report: Report, processes: int) -> None:
    """Lengths, steps, memory, time, generated ROUGE."""
    from data_prep.preflight.estimate import lines
    from data_prep.preflight.lengths import lengths, overlong

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
