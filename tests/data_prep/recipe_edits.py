"""Edits to the text of recipes/smollm2_samsum.yml, and the problems found in the result."""

import re
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

    `edits` are (old, new) texts; an empty old text appends to the end. `says` are the expected
    problems in order: a text that occurs once and marks the line (None for no line), and the key
    words of the message in their order, as in "unknown key … `lora_r`".
    `reaches_our_plugin` is false if Axolotl does not call our plugin, so that only preflight and
    the recipe reader can refuse the recipe.
    """

    name: str
    edits: list[tuple[str, str]]
    says: list[tuple[str | None, str]]
    reaches_our_plugin: bool = True

    def text(self) -> str:
        """Return the edited recipe; fail unless each text to replace occurs once."""
        text = BASE
        for old, new in self.edits:
            assert not old or text.count(old) == 1, f"{self.name}: {old!r}"
            text = text.replace(old, new) if old else text + new
        return text

    def write(self, folder: Path) -> Path:
        """Write the recipe into a folder; return its path."""
        path = folder / f"{self.name.replace(' ', '_')}.yml"
        path.write_text(self.text(), "utf-8")
        return path

    def messages(self, path: Path) -> list[str]:
        """Return all messages of the recipe; fail unless they are the expected ones, in order."""
        found = find_problems(path, yaml.safe_load(path.read_text("utf-8")))  # as Axolotl reads it
        assert len(found) == len(self.says), found
        for message, (at, says) in zip(found, self.says, strict=True):
            place, key_words = f"{path}{self._line(at)}: ", map(re.escape, says.split(" … "))
            assert re.fullmatch(f"{re.escape(place)}.*{'.*'.join(key_words)}.*", message), message
        return found

    def _line(self, at: str | None) -> str:
        if at is None:
            return ""
        text = self.text()
        assert text.count(at) == 1, f"{self.name}: {at!r} marks no line"
        return f":{text[: text.index(at)].count(chr(10)) + 1}"


def add(name: str, lines: str, says: str, at: str = "") -> BrokenRecipe:
    """Append lines to the recipe; the problem is in the first of them, or in the line of `at`."""
    return BrokenRecipe(name, [("", lines + "\n")], [(at or lines.split("\n")[0], says)])


def swap(name: str, old: str, new: str, says: str, at: str = "") -> BrokenRecipe:
    """Replace one text with another; the problem is in the new text, or in the line of `at`."""
    return BrokenRecipe(name, [(old, new)], [(at or new, says)])


def changed(*edits: tuple[str, str]) -> str:
    return BrokenRecipe("valid", list(edits), []).text()


def problems(folder: Path, text: str, **overrides: Any) -> list[str]:
    """Return the problems of a recipe with this text; `overrides` are set as Axolotl sets them.

    The path is removed and the line number kept: "12: unknown key ...".
    """
    path = folder / "recipe.yml"
    path.write_text(text, "utf-8")
    found = find_problems(path, {**yaml.safe_load(text), **overrides})
    assert all(line.startswith(str(path)) and "\n" not in line for line in found)
    return [line.removeprefix(f"{path}:").strip() for line in found]
