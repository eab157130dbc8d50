"""A YAML file together with the line of each key, so that a problem in it can be pointed at."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_prep.errors import UserError

Loc = tuple[Any, ...]  # the way to a value: ("datasets", 0, "path")


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


class YamlFile:
    """What a YAML file holds (`data`), the line of each key, and which keys are there twice.

    Raises UserError where the file is missing, is not UTF-8 or is not YAML.
    """

    def __init__(self, path: Path) -> None:
        """Read the file at `path`."""
        self.path = path
        loader = yaml.SafeLoader(_text(path))
        try:
            root = loader.get_single_node()
            self._key = loader.construct_object
            # before the next step, which copies the keys of `<<` in beside those that override them
            self.twice = [
                (line, f"{path}:{line}: `{key}` is in its block twice; keep one")
                for line, key in sorted(_repeated_keys(root, self._key))
            ]
            # deep: a block that holds itself is an error, not an endless walk
            self.data = loader.construct_object(root, deep=True) if root else None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark else ""
            reason = " ".join(part for part in (error.context, error.problem) if part)
            raise UserError(f"{path}{line}: is not valid YAML: {_one_line(reason)}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a bad date
            raise UserError(f"{path}: is not valid YAML: {_one_line(error)}") from error
        self._root = root

    def line(self, loc: Loc) -> int | None:
        """The line of a key or a list item, from 1; None where the file does not hold it."""
        node, line = self._root, None
        for part in loc:
            if isinstance(node, yaml.MappingNode):
                # backwards: the keys that `<<` brought in come before those that override them
                pairs = (p for p in reversed(node.value) if self._key(p[0]) == part)
                key, node = next(pairs, (None, None))
            elif isinstance(node, yaml.SequenceNode) and type(part) is int:
                key = node = node.value[part] if part < len(node.value) else None
            else:
                return None
            if key is None:
                return None
            line = key.start_mark.line + 1
        return line

    def say(self, problem: Problem, config: dict[str, Any]) -> tuple[float, str]:
        """The line of a problem in `config`, and the whole message; infinity is "no line".

        `config` is what the file holds, with the command line's values on top.
        """
        line, note = self.line(problem.loc), ""
        if line is None and problem.loc in problem.lacks:
            above = (self.line(problem.loc[:end]) for end in reversed(range(len(problem.loc))))
            line = next(filter(None, above), None)
        elif line is None and problem.loc:
            note = " (not in the file: given on the command line)"
        elif _at(self.data, problem.loc) != _at(config, problem.loc):
            line, note = None, " (given on the command line)"
        where = f"{self.path}:{line}" if line else str(self.path)
        fix = f"; {problem.fix}" if problem.fix else ""
        return line or float("inf"), _one_line(f"{where}: {problem.what}{note}{fix}")


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        found = ", ".join(str(p) for p in sorted(path.parent.glob("*.yml"))) or "none"
        raise UserError(f"{path}: {error.strerror}; recipes there: {found}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _repeated_keys(root: yaml.Node | None, key_of: Any) -> Iterator[tuple[int, str]]:
    """The line and the text of each key that its block holds already."""
    waiting, visited = [root] if root else [], set()
    while waiting:
        node = waiting.pop()
        if id(node) in visited:  # an alias
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        seen = set()
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    None, None, "a key must be one word, not a list or a block", mark
                )
            is_merge = key_node.tag == "tag:yaml.org,2002:merge"
            key = key_node.value if is_merge else key_of(key_node)
            if key in seen:
                yield mark.line + 1, key_node.value
            seen.add(key)
            waiting.append(value_node)


def _at(data: Any, loc: Loc) -> Any:
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _one_line(text: object) -> str:
    return re.sub(r"\s*\n\s*", " ", str(text))
