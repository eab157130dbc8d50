"""Every recipe of the table of broken ones is refused by preflight and by Axolotl's own command.

One recipe goes through the launch line itself, the others through forks of what it starts.
"""

from pathlib import Path
from typing import Any

import pytest

from tests import forks
from tests.conftest import LAUNCH, ROOT, command
from tests.data_prep.broken_recipes import BROKEN

pytestmark = pytest.mark.slow  # tests/data_prep/test_strict.py has the same table, by function


def outcomes(words: tuple[str, ...], folder: Path) -> dict[str, tuple[int, str]]:
    """Exit code and output of a command for each recipe of the table, by its name."""
    found = {}
    for broken in BROKEN:
        done = forks.run([*words, broken.write(folder)])
        found[broken.name] = (done.returncode, done.stdout + done.stderr)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("broken")


@pytest.fixture(scope="module")
def preflight(folder: Path) -> dict[str, tuple[int, str]]:
    return outcomes(("python", "-m", "training.preflight"), folder)


@pytest.fixture(scope="module")
def launch(folder: Path) -> dict[str, tuple[int, str]]:
    return outcomes(LAUNCH, folder)


def stripped(output: str) -> list[str]:
    """Lines of an output without `error: ` and without their numbers."""
    lines = [line.removeprefix("error: ") for line in output.splitlines()]
    return [line.partition(". ")[2] if line[:1].isdigit() else line for line in lines]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: b.name)
def test_preflight_refuses_it(
    broken: Any, preflight: dict[str, tuple[int, str]], folder: Path
) -> None:
    code, output = preflight[broken.name]
    assert code == 2 and "Traceback" not in output, output
    numbered = [f"{n}. {text}" for n, text in enumerate(broken.messages(broken.write(folder)), 1)]
    assert output.splitlines()[-len(numbered) :] == numbered


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: b.name)
def test_training_refuses_it(broken: Any, launch: dict[str, tuple[int, str]], folder: Path) -> None:
    if not broken.reaches_our_plugin:
        pytest.skip("Axolotl trains without our plugin and so without its checks")
    code, output = launch[broken.name]
    assert code == 2, output
    if broken.name != "another plugin misspelt":
        assert "Traceback" not in output  # Axolotl prints one where a plugin is missing
    assert set(broken.messages(broken.write(folder))) <= set(stripped(output)), output
    assert not (ROOT / "outputs" / broken.name).exists()


def test_the_launch_line_itself(tmp_path: Path) -> None:
    broken = next(b for b in BROKEN if b.name == "several")
    path = broken.write(tmp_path)
    done = command(*LAUNCH, path)
    assert done.returncode == 1  # accelerate's own, for any failure
    assert set(broken.messages(path)) <= set(stripped(done.stderr)), done.stderr
    assert "returned non-zero exit status 2" in done.stderr
    done = command(*LAUNCH, "recipes/smollm2_samsum.yml", "--lora_rank", 4)
    assert "unknown key `lora_rank`" in done.stderr and "given on the command line" in done.stderr
