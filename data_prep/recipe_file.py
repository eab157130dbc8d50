"""A YAML file together with the line of each key, so that a problem in it can be pointed at."""

import functools
import operator
import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_prep.errors import UserError, check_file

Loc = tuple[Any, ...]  # the way to a value: ("datasets", 0, "path")

# The longest recipe of this project has 124 values in 4 KB. An alias of aliases of aliases is small
# in the file, and endless for whoever walks through what it stands for.
MOST_BYTES, MOST_VALUES = 10**5, 5000

NO_TEXT = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong at `loc`, and how to `fix` it where `what` does not say so.

    `lacks` are the keys whose absence it complains of; `meant` is the key that an unknown one
    probably means. What is lacking only because it is misspelt is one problem, not two.
    """

    loc: Loc
    what: str
    fix: str = ""
    lacks: tuple[Loc, ...] = ()
    meant: Loc | None = None


def dotted(loc: Loc) -> str:
    """Write a way as a person does: `datasets[0].path`."""
    parts = (f"[{part}]" if type(part) is int else f".{part}" for part in loc)
    return "".join(parts).removeprefix(".")


class _Loader(yaml.SafeLoader):
    """Notes the lines of keys that their block holds already, before those of `<<` come in."""

    twice: list[tuple[int, str]]

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key_node, _ in node.value:
            is_merge = key_node.tag == "tag:yaml.org,2002:merge"
            key = key_node.value if is_merge else self.construct_object(key_node)
            if not isinstance(key, Hashable):
                continue  # an error later
            if key in seen:
                self.twice.append((key_node.start_mark.line + 1, key_node.value))
            seen.add(key)
        return node


class YamlFile:
    """What a YAML file holds (`data`), and which keys are there twice, each with its line.

    Raises UserError where the file is missing, is not UTF-8 or is not YAML.
    """

    def __init__(self, path: Path) -> None:
        """Read the file at `path`."""
        self.path = path
        try:
            check_file(path, MOST_BYTES)
            loader = _Loader(path.read_text("utf-8"))
            loader.twice = []
            root = loader.get_single_node()
            if root and _values(root, {}) > MOST_VALUES:
                raise UserError(
                    f"{path}: holds more than {MOST_VALUES} values, with those that its aliases "
                    "(`*name`) stand for; write out what is meant"
                )
            self.data = loader.construct_object(root, deep=True) if root else None
        except OSError as error:
            found = ", ".join(str(p) for p in sorted(path.parent.glob("*.yml"))) or "none"
            raise UserError(f"{path}: {error.strerror}; recipes there: {found}") from error
        except UnicodeDecodeError as error:
            message = f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8"
            raise UserError(message) from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a bad date
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            where = f"{path}:{mark.line + 1}" if mark else str(path)
            words = [getattr(error, "context", None), getattr(error, "problem", error)]
            reason = " ".join(str(part) for part in words if part)
            raise UserError(f"{where}: is not valid YAML: {' '.join(reason.split())}") from error
        self.twice = [
            (line, f"{path}:{line}: `{key}` is in its block twice; keep one")
            for line, key in sorted(loader.twice)
        ]
        # the keys that `<<` brought in come before those that override them
        self._lines: dict[Loc, int] = {}
        todo: list[tuple[Loc, Any]] = [((), root)]
        for loc, node in todo:
            items: list[tuple[Any, Any, Any]] = []
            if isinstance(node, yaml.MappingNode):
                items = [(loader.construct_object(key), key, value) for key, value in node.value]
            elif isinstance(node, yaml.SequenceNode):
                items = [(index, item, item) for index, item in enumerate(node.value)]
            if isinstance(node, yaml.ScalarNode) and (mark := NO_TEXT.search(node.value)):
                raise UserError(
                    f"{path}:{node.start_mark.line + 1}: {dotted(loc)} holds {mark[0]!r}, which "
                    "no text or path can hold; remove it"
                )
            for key, marked, value in items:
                self._lines[(*loc, key)] = marked.start_mark.line + 1
                todo.append(((*loc, key), value))

    def say(self, problem: Problem, config: dict[str, Any]) -> tuple[float, str]:
        """The line of a problem in `config` (infinity where it has none), and the whole message."""
        loc, note = problem.loc, ""
        line = self._lines.get(loc)
        if line is None and loc in problem.lacks:
            above = (self._lines.get(loc[:end]) for end in reversed(range(len(loc))))
            line = next(filter(None, above), None)
        elif line is None and loc:
            note = " (not in the file: given on the command line)"
        elif _at(self.data, loc) != _at(config, loc):
            line, note = None, " (given on the command line)"
        where = f"{self.path}:{line}" if line else str(self.path)
        fix = f"; {problem.fix}" if problem.fix else ""
        message = f"{where}: {problem.what}{note}{fix}"
        return line or float("inf"), " ".join(message.split())


def _values(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """How many values a walk through a node meets, which is an error where one holds itself."""
    if node not in known:
        known[node] = 0
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        each = (part for item in inner for part in (item if isinstance(item, tuple) else [item]))
        known[node] = 1 + sum(_values(part, known) for part in each)
    return known[node]


def _at(data: Any, loc: Loc) -> Any:
    try:
        return functools.reduce(operator.getitem, loc, data)
    except (KeyError, IndexError, TypeError):
        return None
