"""The one reader of recipes: an Axolotl YAML file with our block `summarization:`.

Use: `recipe = load_recipe("recipes/smollm2_samsum.yml")`. A recipe that would silently do something
else than it says is refused, with the line, what is wrong and how to fix it. The schema of the
installed Axolotl is read, never copied; by itself it silently drops a key that it does not know.
"""

import difflib
import functools
import logging
import pydoc
import re
import reprlib
import warnings
from collections.abc import Hashable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from operator import getitem
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from data_prep.contradictions import Loc, Problem, contradictions
from data_prep.errors import UserError, check_file
from data_prep.settings import Summarization

DEFAULT_RECIPE = Path("recipes/mistral_samsum.yml")


@dataclass(frozen=True)
class Recipe:
    """A recipe as read: its path, Axolotl's keys (`config`) and our block (`summarization`)."""

    path: Path
    config: dict[str, Any]
    summarization: Summarization

    @property
    def name(self) -> str:
        """The file's name without its ending; results go to `results/<name>/`.

        A training keeps its recipe as `recipe.yml` in its folder: that one is named by the folder.
        """
        kept = self.path.name == "recipe.yml" and self.path.with_name("run.json").is_file()
        return self.path.absolute().parent.name if kept else self.path.stem

    @property
    def data_dir(self) -> Path:
        """The folder of the prepared rows: where `datasets[0].path` points."""
        return Path(self.config["datasets"][0]["path"]).parent

    @property
    def output_dir(self) -> Path:
        """Where Axolotl leaves the adapter."""
        return Path(self.config["output_dir"])


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe.

    Raises UserError with the first of the problems that `find_problems` finds in it.
    """
    path = Path(path)
    config = read_yaml(path)
    for problem in find_problems(path, config):
        raise UserError(problem)
    return Recipe(path, config, Summarization.model_validate(config["summarization"]))


def sequence_len(config: dict[str, Any]) -> int:
    """The recipe's `sequence_len`, or Axolotl's default."""
    from axolotl.utils.schemas.config import AxolotlInputConfig

    return config.get("sequence_len") or AxolotlInputConfig.model_fields["sequence_len"].default


# ---- a YAML file with the line of each key ----

# The longest recipe of this project has 124 values in 4 KB. An alias of aliases of aliases is small
# in the file, and endless for whoever walks through what it stands for.
MOST_BYTES, MOST_VALUES = 10**5, 5000

NO_TEXT = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


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
        return functools.reduce(getitem, loc, data)
    except (KeyError, IndexError, TypeError):
        return None


# ---- all problems of a recipe ----

OUR_PLUGIN = "training.plugin.SummarizationPlugin"
Schema = type[BaseModel]
Errors = list[tuple[Loc, Any]]  # what pydantic complains of, each with its place


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a recipe's keys; UserError where it holds none, or one of them twice in a block."""
    file = YamlFile(path)
    for _, message in file.twice:
        raise UserError(message)
    if not isinstance(file.data, dict):
        raise UserError(f"{path}: is not a recipe: expected `key: value` lines at the top level")
    return file.data


def find_problems(path: Path, config: dict[str, Any]) -> list[str]:
    """Every problem of a recipe, in the order of its lines; those without a line come last.

    `config` is what Axolotl is about to use: the file at `path`, with the command line's values.
    """
    file = YamlFile(path)
    config = {key: value for key, value in config.items() if key != "axolotl_config_path"}
    plugins, bad_plugins = _plugins(config.get("plugins"))
    schema, fields = _schemas(tuple(p.get_input_args() for p in plugins), bool(config.get("rl")))
    at: dict[Loc, Problem] = {}
    for problem in (
        *_numbers_as_text(fields, config),
        *_complaints(fields, config, extra="forbid"),
        *bad_plugins,
        *contradictions(config),
    ):
        at.setdefault(problem.loc, problem)
    # without what is lacking only because its key is misspelt or its value is wrong
    meant = {problem.meant for problem in at.values() if problem.meant}
    found = []
    for loc, problem in at.items():
        causes = meant | (at.keys() - {loc})
        if not any(lack[:end] in causes for lack in problem.lacks for end in range(len(lack) + 1)):
            found.append(problem)
    # what Axolotl's own checks say is often a consequence of what is above; and an adapter of a
    # plugin is one that Axolotl knows only once training has begun
    adapters = {c.name for plugin in plugins for c in plugin.get_adapter_capabilities()}
    if not found and not file.twice and config.get("adapter") not in adapters:
        found = list(_complaints(schema, config))
    said = [*file.twice, *(file.say(problem, config) for problem in found)]
    return [line for _, line in sorted(said, key=lambda pair: pair[0])]


def _plugins(names: Any) -> tuple[list[Any], list[Problem]]:
    """The recipe's other plugins, loaded, and what is wrong with `plugins:`.

    Ours is not imported for that: it is known, and brings Axolotl's trainer with it.
    """
    plugins, found = [], []
    names = names if isinstance(names, list) else []
    for index, name in enumerate(names):
        if name == OUR_PLUGIN:
            continue
        from axolotl.integrations.base import load_plugin

        try:
            plugin = load_plugin(name)
            plugin.get_input_args()
            plugins.append(plugin)
        except Exception as error:  # whatever a module does on import
            reason = error if "." in str(name) else "it names no module"
            what = f"plugin `{name}` cannot be loaded ({reason}), and Axolotl may train without it"
            fix, meant = "correct its name, install its package, or remove it", None
            if difflib.get_close_matches(str(name), [OUR_PLUGIN]):
                fix, meant = f"did you mean `{OUR_PLUGIN}`?", ("plugins",)
            found.append(Problem(("plugins", index), what, fix, meant=meant))
    if OUR_PLUGIN not in names:
        what = "our plugin is not under `plugins:`, so that training would check nothing of this"
        fix = f"add `- {OUR_PLUGIN}` there"
        found.append(Problem(("plugins",), what, fix, lacks=(("plugins",),)))
    return plugins, found


@functools.cache
def _schemas(of_plugins: tuple[str | None, ...], rl: bool) -> tuple[Schema, Schema]:
    """Axolotl's schema with what plugins declare (Liger's, for instance), as Axolotl mixes it.

    The second has the same fields and our block, and none of the checks of the top level: those
    rename keys, and stop at the first that they refuse.
    """
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from axolotl.utils.schemas.datasets import SFTDataset

    others: list[Any] = [pydoc.locate(name) for name in of_plugins if name]
    # the schema allows the keys of DPO and others in any data set, and Axolotl reads only these
    rows = (list[SFTDataset] | None, None)
    data: dict[str, Any] = {} if rl else {"datasets": rows, "test_datasets": rows}
    schema = create_model("AxolotlInputConfig", __base__=(AxolotlInputConfig, *others), **data)
    fields: dict[str, Any] = {"summarization": (Summarization, ...)}  # its problems come first
    fields |= {key: (f.annotation, f) for key, f in schema.model_fields.items()}
    return schema, create_model("Fields", __config__=ConfigDict(populate_by_name=True), **fields)


def _errors(schema: Schema, config: dict[str, Any], **how: Any) -> Errors:
    """What a schema complains of; silently, since Axolotl's checks log again in Axolotl itself."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schema.model_validate(deepcopy(config), **how)
        return []
    except ValidationError as error:
        return _places([(complaint["loc"], complaint) for complaint in error.errors()], config)
    except Exception as error:  # Axolotl's checks raise what they like
        words = str(error)
    finally:
        logging.disable(before)
    # a check met a value that it did not expect: which one is it, and what of the others?
    wrong = {"type": "", "msg": "has a value of the wrong kind"}
    if len(config) == 1:
        return [((*config,), wrong)]
    bad = [key for key in config if ((key,), wrong) in _errors(schema, {key: config[key]}, **how)]
    if not bad:
        return [((), {"type": "value_error", "msg": words})]
    others = {key: value for key, value in config.items() if key not in bad}
    return [((key,), wrong) for key in bad] + _errors(schema, others, **how)


def _places(errors: Errors, value: Any) -> Errors:
    """Each complaint with its place in `value`.

    Where pydantic has a union, it puts the names of the members in between, with what each says. Of
    those that look inside the value, the one with the least to say counts, otherwise all.
    """
    found: Errors = []
    below: dict[Any, Errors] = {}
    for loc, error in errors:
        if error["type"] == "invalid_key":  # a key that is no text
            found.append(((error["input"],), error))
        elif not loc or (len(loc) == 1 and error["type"] == "missing"):
            found.append((loc, error))
        else:
            below.setdefault(loc[0], []).append((loc[1:], error))
    keys = value if isinstance(value, dict) else range(len(value)) if type(value) is list else ()
    members = []
    for part, inner in below.items():
        if part in keys:
            found += [((part, *loc), error) for loc, error in _places(inner, value[part])]
        else:
            members.append(_places(inner, value))
    inside = [member for member in members if any(loc for loc, _ in member)]
    return found + (min(inside, key=lambda member: len(member)) if inside else sum(members, []))


def _complaints(schema: Schema, config: dict[str, Any], **how: Any) -> Iterator[Problem]:
    """What a schema says of a recipe; with `extra="forbid"`, without what Axolotl's checks say."""
    together: dict[Loc, list[Any]] = {}
    for loc, error in _errors(schema, config, **how):
        together.setdefault(loc, []).append(error)
    for loc, errors in together.items():
        kind, is_ours = errors[0]["type"], loc[:1] == ("summarization",)
        value = None if kind == "missing" else functools.reduce(getitem, loc, config)
        is_check = kind in ("value_error", "assertion_error") and not is_ours
        if kind == "extra_forbidden":
            yield from _unknown(loc, value, schema, errors[0]["loc"])
        elif value is None and kind != "invalid_key":
            fix = "set it" if loc != ("summarization",) else "see recipes/smollm2_samsum.yml"
            yield Problem(loc, f"`{dotted(loc)}` is missing", fix, lacks=(loc,))
        elif not (is_check and how):
            noise = r"^Value error, |, (unable to|got a) .*"
            said = [re.sub(noise, "", e["msg"]).replace("Input should", "must") for e in errors]
            words = " or ".join(dict.fromkeys(said)).replace(" or must be ", " or ")
            block = value if isinstance(value, dict) else {}
            for line in words.splitlines() if is_ours else [words]:
                # a check of a block names the key that it means
                place = (*loc, *[key for key in re.findall(r"\w+", line) if key in block][:1])
                what = f"`{dotted(loc)}`: {line}"
                if is_check:
                    what = f"Axolotl{f' refuses `{dotted(place)}`' if place else ''}: {line}"
                elif not block:
                    what += f" (found {reprlib.repr(value)})"
                yield Problem(place, what)


def _numbers_as_text(fields: Schema, config: dict[str, Any]) -> Iterator[Problem]:
    """YAML reads `2e-4`, and what is in quotes, as text, and pydantic may take it for a number."""

    def takes(loc: Loc, value: Any, **how: Any) -> bool:
        changed = deepcopy(config)
        functools.reduce(getitem, loc[:-1], changed)[loc[-1]] = value
        errors = _errors(fields, changed, extra="forbid", **how)
        return not any(loc[: len(place)] == place for place, _ in errors)

    todo: list[tuple[Loc, Any]] = [((), config)]
    for loc, text in todo:
        if isinstance(text, (dict, list)):
            items = text.items() if isinstance(text, dict) else enumerate(text)
            todo += [((*loc, key), value) for key, value in items]
        try:
            number = float(text if isinstance(text, str) else "none")
        except ValueError:
            continue
        # where anything is taken, text such as '12' may be meant as text
        is_number = re.fullmatch(r"[-+]?\d+(\.\d+)?[eE][-+]?\d+", text) or not takes(loc, object())
        if is_number and takes(loc, int(number) if number.is_integer() else number, strict=True):
            fix = "write a finite number"
            if isfinite(number):
                decimal = f"{Decimal(text.strip()):f}"
                fix = f"write {decimal}{' without quotes' if decimal == text else ''}"
            yield Problem(loc, f"`{dotted(loc)}`: {text} is text to YAML", fix)


def _unknown(loc: Loc, value: Any, schema: Schema, way: Loc) -> Iterator[Problem]:
    """A key that the schema lacks, unless Axolotl reads it nevertheless: `fsdp_config.fsdp_...`."""
    alone = value
    for part in reversed(loc):
        alone = [alone] if type(part) is int else {part: alone}
    needed = {"base_model": "any", "learning_rate": 1.0, "datasets": [{"path": "any"}]}
    errors = _errors(_schemas((), False)[0], {**needed, **alone}, extra="forbid")
    if not errors:
        return
    key, what, words = str(loc[-1]), f"unknown key `{dotted(loc)}`", errors[0][1]["msg"]
    schemas: list[Any] = [schema]  # in the end the block's; `way` is pydantic's name for the place
    for part in way[:-1]:
        inside = [s.model_fields[part].annotation for s in schemas if part in s.model_fields]
        for annotation in inside:
            inside += get_args(annotation)
        inside = [a for a in inside if isinstance(a, type) and issubclass(a, BaseModel)]
        # else an index, or the name of a union's member
        schemas = inside or [s for s in schemas if s.__name__ == part] or schemas
    known = [field.alias or name for s in schemas for name, field in s.model_fields.items()]
    close = (
        difflib.get_close_matches(key, known, n=1, cutoff=0.9)
        # for `lora_rank` the name that it begins with: `lora_r`, although `local_rank` is closer
        or sorted((k for k in known if len(k) > 3 and key.startswith(k)), key=len)[-1:]
        or difflib.get_close_matches(key, known, n=1)
    )
    if f"`{key}`" in words:  # Axolotl had it once, such as `unsloth_lora_mlp`
        yield Problem(loc, what, words.removeprefix("Value error, "))
    elif close:
        yield Problem(loc, what, f"did you mean `{close[0]}`?", meant=(*loc[:-1], *close))
    elif len(known) < 30:
        yield Problem(loc, what, f"known there: {', '.join(known)}")
    else:
        yield Problem(loc, what, "remove it, or see Axolotl's documentation")
