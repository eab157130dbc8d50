"""The console script lists and runs every command; each `--help` is quick and quiet."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.cli import app
from tests.conftest import command

NAMES = [info.name or info.callback.__name__ for info in app.registered_commands if info.callback]
HEAVY = {"torch", "transformers", "axolotl", "datasets", "pandas", "scipy", "matplotlib"}
QUICK = {"data_prep": HEAVY, "eval.run": HEAVY, "eval.score": HEAVY}
MODULES = ["data_prep", "eval.run", "eval.score", "eval.compare", "training.preflight",
           "chat.summarize", "chat.page", "scripts.merge", "scripts.publish"]  # fmt: skip
SCRIPT = Path(sys.executable).with_name("samsum-lora")


def test_commands_are_listed_in_order_of_use() -> None:
    assert NAMES == [
        "prepare", "preflight", "train", "eval", "score", "compare", "rate", "summarize",
        "page", "merge", "publish", "get-smollm2", "dry-run", "random-model", "bench-cpu",
        "bench-gpu", "bundle",
    ]  # fmt: skip
    done = command(SCRIPT, "--help")
    assert done.returncode == 0 and all(f"  {name} " in done.stdout for name in NAMES)


@pytest.mark.parametrize("module", MODULES)
def test_help_is_quick_and_prints_nothing_else(module: str) -> None:
    """Quick: no package that takes seconds is imported (times vary on a busy machine)."""
    code = f"""
import runpy, sys
sys.argv = [{module!r}, "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
finally:
    print("loaded:", *({HEAVY!r} & sys.modules.keys()))"""
    done = command(sys.executable, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m {module}")
    loaded = done.stdout.splitlines()[-1].removeprefix("loaded:").split()
    assert set(loaded) <= HEAVY - QUICK.get(module, HEAVY - {"axolotl"})


def test_help_of_a_command_without_a_module() -> None:
    done = command(SCRIPT, "train", "--help")
    assert (done.returncode, done.stderr) == (0, "") and "samsum-lora train" in done.stdout


def test_it_works_outside_the_repository(tmp_path: Path) -> None:
    line = [str(SCRIPT), "score", "--predictions", "a.txt", "--references", "b.txt"]
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("Ana buys bread.\n" * 3, "utf-8")
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "100.00" in done.stdout


def test_bad_input_prints_one_line_and_exits_with_2(tmp_path: Path) -> None:
    for args in (["compare", tmp_path], ["eval", tmp_path / "no.yml"], ["prepare", "no.yml"]):
        done = command(SCRIPT, *args)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
