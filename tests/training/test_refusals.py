"""Every recipe of the table of broken ones is refused by preflight and by Axolotl's own command.

Both commands are imported once and forked for each recipe, which runs the very code of
`python -m training.preflight` and of what `accelerate launch -m axolotl.cli.train` starts. One
recipe goes through the launch line itself.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, command
from tests.data_prep.broken_recipes import BROKEN

pytestmark = pytest.mark.slow  # tests/data_prep/test_strict.py has the same table, by function

FORKS = """
import json, os, sys, traceback
from pathlib import Path

if sys.argv[1] == "preflight":
    from training import preflight as preflight
    from data_prep import strict as problems
    from data_prep.errors import run_cli
    import axolotl.utils.schemas.config
    def run(path):
        sys.argv = ["preflight", path]
        run_cli(preflight.main)
else:
    import fire
    import axolotl.cli.config
    import training.plugin
    from axolotl.cli.train import do_cli
    def run(path):
        sys.argv = ["axolotl.cli.train", path]
        fire.Fire(do_cli)

found = {}
for path in sys.argv[2:]:
    log = Path(path).with_suffix(f".{sys.argv[1]}.log")
    child = os.fork()
    if not child:
        out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        code = 0
        try:
            run(path)
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code or 0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found[path] = [code, log.read_text("utf-8", "replace")]
print(json.dumps(found))
"""


def outcomes(which: str, folder: Path) -> dict[str, tuple[int, str]]:
    """Exit code and output of a command for each recipe of the table, by its name."""
    paths = {str(broken.write(folder)): broken.name for broken in BROKEN}
    done = subprocess.run(
        [sys.executable, "-c", FORKS, which, *paths], cwd=ROOT, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {paths[path]: tuple(outcome) for path, outcome in found.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("broken")


@pytest.fixture(scope="module")
def preflight(folder: Path) -> dict[str, tuple[int, str]]:
    return outcomes("preflight", folder)


@pytest.fixture(scope="module")
def launch(folder: Path) -> dict[str, tuple[int, str]]:
    return outcomes("launch", folder)


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
    done = command("accelerate", "launch", "-m", "axolotl.cli.train", path)
    assert done.returncode == 1  # accelerate's own, for any failure
    assert set(broken.messages(path)) <= set(stripped(done.stderr)), done.stderr
    assert "returned non-zero exit status 2" in done.stderr
    done = command(
        "accelerate", "launch", "-m", "axolotl.cli.train", "recipes/smollm2_samsum.yml",
        "--lora_rank", 4,
    )  # fmt: skip
    assert "unknown key `lora_rank`" in done.stderr and "given on the command line" in done.stderr
