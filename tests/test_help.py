"""Every command's help explains each argument and default and shows each option in an example.

The command's own parser must accept the examples.
"""

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from scripts import cli
from tests.conftest import ROOT

CODE = ("data_prep", "training", "eval", "chat", "scripts")
FILES = [path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py"))]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in FILES
    if re.search(r"= (argparse\.ArgumentParser|Options)\(", path.read_text("utf-8"))
]
EXAMPLE = r"^(?:  |example: )python (?:-m )?\S+ (.*)$"  # the arguments of an example in the epilog
INTERNAL = {"scripts.bench_check", "scripts.pictures", "scripts.unpack_bundle"}


class Found(Exception):
    """Carries a command's parser, raised when the command parses its arguments."""


@pytest.fixture(params=MODULES)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    def stop(self: argparse.ArgumentParser, *_: Any) -> None:
        raise Found(self)

    ways = ("parse_args", "parse_known_args", "parse_intermixed_args")
    with monkeypatch.context() as patch, pytest.raises(Found) as found:
        for way in ways:
            patch.setattr(argparse.ArgumentParser, way, stop)
        patch.setattr(sys, "argv", [request.param])
        importlib.import_module(request.param).main()
    return found.value.args[0]


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def test_arguments_have_help_a_default_and_an_example(
    parser: argparse.ArgumentParser,
) -> None:
    examples = re.findall(EXAMPLE, parser.epilog or "", re.M)
    words = {word for example in examples for word in shlex.split(example)}
    for one in parsers(parser):
        assert not {*examples} - {*re.findall(EXAMPLE, one.format_help(), re.M)}
        for action in one._actions:
            if action.default == argparse.SUPPRESS or action.dest == "command":
                continue  # --help and subcommands
            text = one._get_formatter()._expand_help(action)
            assert text, action.dest
            if action.option_strings:
                assert "default" in text or action.required, action.dest
                assert {*action.option_strings} <= words, action.dest
    for example in examples:
        given, unknown = parser.parse_known_args(shlex.split(example))
        assert given and unknown in ([], ["--max_steps", "4"])  # dry_run passes it to Axolotl


def test_help_does_not_wait_for_slow_packages() -> None:
    slow = {"torch", "transformers", "axolotl", "pandas", "sentence_transformers"}
    names = [*{*MODULES} - {"scripts.bench_check"}]  # torch is all that it does
    code = f"import sys, importlib; [importlib.import_module(name) for name in {names}]"
    code += f"; print({slow} & sys.modules.keys() or '')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_every_command_is_listed() -> None:
    callbacks: list[Any] = [info.callback for info in cli.app.registered_commands]
    closures = [callback.__closure__ or () for callback in callbacks]
    listed = {cell.cell_contents for cells in closures for cell in cells}
    runnable = {module.removesuffix(".__main__") for module in MODULES}
    assert runnable - INTERNAL == listed


def test_models_both_means_base_and_tuned(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from eval import run as evaluation

    asked: list[list[str]] = []
    monkeypatch.setattr(evaluation, "evaluate", lambda recipe, models, *_: asked.append(models))
    for value in ("both", "both,merged", "tuned", "base,tuned"):
        monkeypatch.setattr(sys, "argv", ["eval.run", "tiny_run.yml", "--models", value])
        evaluation.main()
    assert asked == [["base", "tuned"], ["base", "tuned", "merged"], ["tuned"], ["base", "tuned"]]
