"""recipes/smollm2_samsum.yml with a change to its text, and what is said of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_prep.recipe import find_problems
from tests.conftest import ROOT

BASE = (ROOT / "recipes/smollm2_samsum.yml").read_text("utf-8")
OURS = "training.plugin.SummarizationPlugin"
FSDP = "fsdp_version: 2\nfsdp_config:\n"
BEST = "load_best_model_at_end: true\n"
STEPS = ("eval_strategy: epoch\nsave_steps: 250", "eval_steps: 10\nsave_steps: 20")
ROUGE_100 = ("  train_rows: all", "  train_rows: all\n  training_rouge:\n    dialogues: 100")
END = BASE.count("\n")  # the number of the last line


@dataclass(frozen=True)
class BrokenRecipe:
    """One broken recipe.

    `edits` are (old, new) texts, where an empty old one means the end; `says` are the problems in
    their order, each with a text that is there once and marks its line, or none for no line.
    `reaches_our_plugin` is false where Axolotl does not call our plugin, so that only preflight and
    the recipe reader can refuse it.
    """

    name: str
    edits: list[tuple[str, str]]
    says: list[tuple[str | None, str]]
    reaches_our_plugin: bool = True

    def text(self) -> str:
        """The recipe; fails unless the text to replace is there once."""
        text = BASE
        for old, new in self.edits:
            assert not old or text.count(old) == 1, f"{self.name}: {old!r}"
            text = text.replace(old, new) if old else text + new
        return text

    def write(self, folder: Path) -> Path:
        """Put it into a folder; return its path."""
        path = folder / f"{self.name.replace(' ', '_')}.yml"
        path.write_text(self.text(), "utf-8")
        return path

    def messages(self, path: Path) -> list[str]:
        """The whole of what must be said of it, in order."""
        return [f"{path}{self._line(at)}: {message}" for at, message in self.says]

    def _line(self, at: str | None) -> str:
        if at is None:
            return ""
        text = self.text()
        assert text.count(at) == 1, f"{self.name}: {at!r} marks no line"
        return f":{text[: text.index(at)].count(chr(10)) + 1}"


def add(name: str, lines: str, says: str, at: str = "") -> BrokenRecipe:
    """A recipe with lines at its end; the problem is in the first, or in the line of `at`."""
    return BrokenRecipe(name, [("", lines + "\n")], [(at or lines.split("\n")[0], says)])


def swap(name: str, old: str, new: str, says: str, at: str = "") -> BrokenRecipe:
    """A recipe with one text instead of another; the problem is in it, or in the line of `at`."""
    return BrokenRecipe(name, [(old, new)], [(at or new, says)])


def changed(*edits: tuple[str, str]) -> str:
    return BrokenRecipe("sound", list(edits), []).text()


def problems(folder: Path, text: str, **overrides: Any) -> list[str]:
    """What is said of a recipe with this text, without its path; `overrides` as Axolotl sets them.

    The path is left out, and a line stays: "12: unknown key ...".
    """
    path = folder / "recipe.yml"
    path.write_text(text, "utf-8")
    found = find_problems(path, {**yaml.safe_load(text), **overrides})
    assert all(line.startswith(str(path)) and "\n" not in line for line in found)
    return [line.removeprefix(f"{path}:").strip() for line in found]
