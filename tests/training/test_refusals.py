"""Broken recipes are refused by preflight and by Axolotl's own command.

One recipe runs through the launch line, a sixth of the table (all before a release) in forks of
the program that it starts. tests/data_prep/test_strict.py calls our function for every recipe.
"""

from pathlib import Path

import pytest

from tests import forks
from tests.conftest import LAUNCH, command
from tests.data_prep.broken_recipes import BROKEN
from tests.data_prep.recipe_edits import BrokenRecipe

pytestmark = pytest.mark.slow
CASES = [
    pytest.param(broken, id=broken.name, marks=[pytest.mark.longest] if number % 6 else [])
    for number, broken in enumerate(BROKEN)
]


def stripped(output: str) -> list[str]:
    """Return the lines of an output without `error: ` and without list numbers."""
    lines = [line.removeprefix("error: ") for line in output.splitlines()]
    return [line.partition(". ")[2] if line[:1].isdigit() else line for line in lines]


@pytest.mark.parametrize("broken", CASES)
def test_preflight_and_training_refuse_it(broken: BrokenRecipe, tmp_path: Path) -> None:
    path = broken.write(tmp_path)
    messages = broken.messages(path)
    done = forks.run(["python", "-m", "training.preflight", path])
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    numbered = [f"{number}. {text}" for number, text in enumerate(messages, 1)]
    assert done.stderr.splitlines()[-len(numbered) :] == numbered
    if broken.reaches_our_plugin:  # otherwise Axolotl trains without our checks
        done = forks.run([*LAUNCH, path])
        assert done.returncode == 2, done.stderr
        if broken.name != "another plugin misspelt":
            assert "Traceback" not in done.stderr  # Axolotl prints one for a missing plugin
        assert set(messages) <= set(stripped(done.stdout + done.stderr)), done.stderr


def test_the_launch_line_itself(tmp_path: Path) -> None:
    broken = next(b for b in BROKEN if b.name == "several")
    path = broken.write(tmp_path)
    done = command(*LAUNCH, path)
    assert done.returncode == 1  # accelerate's exit code for any failure
    assert set(broken.messages(path)) <= set(stripped(done.stderr)), done.stderr
    assert "returned non-zero exit status 2" in done.stderr
    done = command(*LAUNCH, "recipes/smollm2_samsum.yml", "--lora_rank", 4)
    assert "unknown key `lora_rank`" in done.stderr and "given on the command line" in done.stderr
