"""Read and check recipes: Axolotl YAML files with our block `summarization:`.

Use: `recipe = load_recipe("recipes/smollm2_samsum.yml")`. A recipe that would silently do something
other than what it says is refused, with the line, what is wrong and how to fix it. The schema comes
from the installed Axolotl and is not copied; Axolotl alone would silently drop unknown keys.
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
    """A recipe as read from disk: its path, Axolotl's keys (`config`) and our block."""

    path: Path
    config: dict[str, Any]
    summarization: Summarization

    @property
    def name(self) -> str:
        """The file name without its extension; results go to `results/<name>/`.

        A training run saves its recipe as `recipe.yml`; that copy has the name of its folder.
        """
        is_copy = self.path.name == "recipe.yml" and self.path.with_name("run.json").is_file()
        return self.path.absolute().parent.name if is_copy else self.path.stem

    @property
    def data_dir(self) -> Path:
        """The folder of the prepared rows: the parent of `datasets[0].path`."""
        return Path(self.config["datasets"][0]["path"]).parent

    @property
    def output_dir(self) -> Path:
        """The folder in which Axolotl saves the adapter."""
        return Path(self.config["output_dir"])


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe.

    Raises UserError with the first problem that `find_problems` returns.
    """
    path = Path(path)
    config = read_yaml(path)
    for problem in find_problems(path, config):
        raise UserError(problem)
    return Recipe(path, config, Summarization.model_validate(config["summarization"]))


def sequence_len(config: dict[str, Any]) -> int:
    """Return the recipe's `sequence_len`, or Axolotl's default."""
    from axolotl.utils.schemas.config import AxolotlInputConfig

    return config.get("sequence_len") or AxolotlInputConfig.model_fields["sequence_len"].default


# ---- YAML files, with the line of each key ----

# The longest recipe of this project has 124 values in 4 KB. A few nested aliases are small in the
# file, but expand to more values than any code can visit.
MAX_BYTES, MAX_VALUES = 10**5, 5000

FORBIDDEN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


def dotted(loc: Loc) -> str:
    """Return a location as people write it: `datasets[0].path`."""
    parts = (f"[{part}]" if type(part) is int else f".{part}" for part in loc)
    return "".join(parts).removeprefix(".")


class _Loader(yaml.SafeLoader):
    """Records duplicate keys of a block, each with its line, before `<<` merges other keys in."""

    twice: list[tuple[int, str]]

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key_node, _ in node.value:
            is_merge = key_node.tag == "tag:yaml.org,2002:merge"
            key = key_node.value if is_merge else self.construct_object(key_node)
            if not isinstance(key, Hashable):
                continue  # reported later as invalid YAML
            if key in seen:
                self.twice.append((key_node.start_mark.line + 1, key_node.value))
            seen.add(key)
        return node


class YamlFile:
    """The data of a YAML file, and messages on duplicate keys (`twice`), each with its line.

    Raises UserError if the file is missing, is not UTF-8 or is not YAML.
    """

    def __init__(self, path: Path) -> None:
        """Read the file at `path`."""
        self.path = path
        try:
            check_file(path, MAX_BYTES)
            loader = _Loader(path.read_text("utf-8"))
            loader.twice = []
            root = loader.get_single_node()
            if root and _count_values(root, {}) > MAX_VALUES:
                raise UserError(
                    f"{path}: has more than {MAX_VALUES} values after its aliases (`*name`) are "
                    "expanded; write the values out"
                )
            self.data = loader.construct_object(root, deep=True) if root else None
        except OSError as error:
            recipes = ", ".join(str(p) for p in sorted(path.parent.glob("*.yml"))) or "none"
            raise UserError(f"{path}: {error.strerror}; recipes there: {recipes}") from error
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
        # keys merged by `<<` come first, so that the line of a key that overrides one wins
        self._lines: dict[Loc, int] = {}
        todo: list[tuple[Loc, Any]] = [((), root)]
        for loc, node in todo:
            items: list[tuple[Any, Any, Any]] = []
            if isinstance(node, yaml.MappingNode):
                items = [(loader.construct_object(key), key, value) for key, value in node.value]
            elif isinstance(node, yaml.SequenceNode):
                items = [(index, item, item) for index, item in enumerate(node.value)]
            if isinstance(node, yaml.ScalarNode) and (char := FORBIDDEN.search(node.value)):
                raise UserError(
                    f"{path}:{node.start_mark.line + 1}: {dotted(loc)} contains {char[0]!r}, which "
                    "is not allowed in a text or path; remove it"
                )
            for key, marked, value in items:
                self._lines[(*loc, key)] = marked.start_mark.line + 1
                todo.append(((*loc, key), value))

    def say(self, problem: Problem, config: dict[str, Any]) -> tuple[float, str]:
        """Return the line of a problem in `config` (infinity if it has none), and its message."""
        loc, note = problem.loc, ""
        line = self._lines.get(loc)
        if line is None and loc in problem.lacks:
            parent_lines = (self._lines.get(loc[:end]) for end in reversed(range(len(loc))))
            line = next(filter(None, parent_lines), None)
        elif line is None and loc:
            note = " (not in the file: given on the command line)"
        elif _value_at(self.data, loc) != _value_at(config, loc):
            line, note = None, " (given on the command line)"
        where = f"{self.path}:{line}" if line else str(self.path)
        fix = f"; {problem.fix}" if problem.fix else ""
        message = f"{where}: {problem.what}{note}{fix}"
        return line or float("inf"), " ".join(message.split())


def _count_values(node: yaml.Node, counts: dict[yaml.Node, int]) -> int:
    """Count a node's values, aliases expanded; the constructor rejects one that contains itself."""
    if node not in counts:
        counts[node] = 0
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        nodes = (child for item in inner for child in (item if isinstance(item, tuple) else [item]))
        counts[node] = 1 + sum(_count_values(child, counts) for child in nodes)
    return counts[node]


def _value_at(data: Any, loc: Loc) -> Any:
    try:
        return functools.reduce(getitem, loc, data)
    except (KeyError, IndexError, TypeError):
        return None


# ---- all problems of a recipe ----

OUR_PLUGIN = "training.plugin.SummarizationPlugin"
Schema = type[BaseModel]
Errors = list[tuple[Loc, Any]]  # pydantic's errors, each with its location


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a recipe's keys; raises UserError if there are none, or a block has one twice."""
    file = YamlFile(path)
    for _, message in file.twice:
        raise UserError(message)
    if not isinstance(file.data, dict):
        raise UserError(f"{path}: is not a recipe: expected `key: value` lines at the top level")
    return file.data


def find_problems(path: Path, config: dict[str, Any]) -> list[str]:
    """Return all problems of a recipe, sorted by line; those without a line come last.

    `config` is what Axolotl will use: the file at `path`, overridden by the command line.
    """
    file = YamlFile(path)
    config = {key: value for key, value in config.items() if key != "axolotl_config_path"}
    plugins, bad_plugins = _plugins(config.get("plugins"))
    schema, fields = _schemas(tuple(p.get_input_args() for p in plugins), bool(config.get("rl")))
    by_loc: dict[Loc, Problem] = {}
    for problem in (
        *_numbers_as_text(fields, config),
        *_complaints(fields, config, extra="forbid"),
        *bad_plugins,
        *contradictions(config),
    ):
        by_loc.setdefault(problem.loc, problem)
    # leave out keys that are missing only because they are misspelt or their value is wrong
    meant = {problem.meant for problem in by_loc.values() if problem.meant}
    problems = []
    for loc, problem in by_loc.items():
        causes = meant | (by_loc.keys() - {loc})
        if not any(lack[:end] in causes for lack in problem.lacks for end in range(len(lack) + 1)):
            problems.append(problem)
    # Axolotl's own checks often report consequences of the problems above, and Axolotl does not
    # know a plugin's adapter until training has started
    adapters = {c.name for plugin in plugins for c in plugin.get_adapter_capabilities()}
    if not problems and not file.twice and config.get("adapter") not in adapters:
        problems = list(_complaints(schema, config))
    messages = [*file.twice, *(file.say(problem, config) for problem in problems)]
    return [line for _, line in sorted(messages, key=lambda pair: pair[0])]


def _plugins(names: Any) -> tuple[list[Any], list[Problem]]:
    """Load the recipe's plugins except ours; return them and the problems of `plugins:`.

    Ours is not loaded: its schema is known, and its import would import Axolotl's trainer.
    """
    plugins, problems = [], []
    names = names if isinstance(names, list) else []
    for index, name in enumerate(names):
        if name == OUR_PLUGIN:
            continue
        from axolotl.integrations.base import load_plugin

        try:
            plugin = load_plugin(name)
            plugin.get_input_args()
            plugins.append(plugin)
        except Exception as error:  # a module may raise anything on import
            reason = error if "." in str(name) else "the name has no module"
            what = f"plugin `{name}` cannot be loaded ({reason}), and Axolotl may train without it"
            fix, meant = "correct its name, install its package, or remove it", None
            if difflib.get_close_matches(str(name), [OUR_PLUGIN]):
                fix, meant = f"did you mean `{OUR_PLUGIN}`?", ("plugins",)
            problems.append(Problem(("plugins", index), what, fix, meant=meant))
    if OUR_PLUGIN not in names:
        what = "our plugin is missing from `plugins:`, so training would run none of these checks"
        fix = f"add `- {OUR_PLUGIN}` there"
        problems.append(Problem(("plugins",), what, fix, lacks=(("plugins",),)))
    return plugins, problems


@functools.cache
def _schemas(plugin_schemas: tuple[str | None, ...], rl: bool) -> tuple[Schema, Schema]:
    """Return Axolotl's schema merged with those of plugins such as Liger, as Axolotl merges them.

    The second schema has the same fields and our block, but no top-level checks: those rename keys,
    and stop at the first key that they refuse.
    """
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from axolotl.utils.schemas.datasets import SFTDataset

    bases: list[Any] = [pydoc.locate(name) for name in plugin_schemas if name]
    # the schema allows keys of DPO and others in any dataset, but without `rl` only these are read
    field = (list[SFTDataset] | None, None)
    overrides: dict[str, Any] = {} if rl else {"datasets": field, "test_datasets": field}
    schema = create_model("AxolotlInputConfig", __base__=(AxolotlInputConfig, *bases), **overrides)
    fields: dict[str, Any] = {"summarization": (Summarization, ...)}  # its problems come first
    fields |= {key: (f.annotation, f) for key, f in schema.model_fields.items()}
    return schema, create_model("Fields", __config__=ConfigDict(populate_by_name=True), **fields)


def _errors(schema: Schema, config: dict[str, Any], **how: Any) -> Errors:
    """Return a schema's errors, without logging: Axolotl runs its checks again and logs them."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schema.model_validate(deepcopy(config), **how)
        return []
    except ValidationError as error:
        return _locate([(complaint["loc"], complaint) for complaint in error.errors()], config)
    except Exception as error:  # Axolotl's checks raise many types
        message = str(error)
    finally:
        logging.disable(before)
    # a check failed on an unexpected value: find its key, and check the other keys without it
    wrong = {"type": "", "msg": "has a value of the wrong kind"}
    if len(config) == 1:
        return [((*config,), wrong)]
    bad = [key for key in config if ((key,), wrong) in _errors(schema, {key: config[key]}, **how)]
    if not bad:
        return [((), {"type": "value_error", "msg": message})]
    rest = {key: value for key, value in config.items() if key not in bad}
    return [((key,), wrong) for key in bad] + _errors(schema, rest, **how)


def _locate(errors: Errors, value: Any) -> Errors:
    """Return each error with its location in `value`.

    For a union, pydantic reports the errors of every member, with its name in the location. Of the
    members with errors inside the value, keep the one with the fewest; if there are none, keep all.
    """
    located: Errors = []
    by_part: dict[Any, Errors] = {}
    for loc, error in errors:
        if error["type"] == "invalid_key":  # a key that is not text
            located.append(((error["input"],), error))
        elif not loc or (len(loc) == 1 and error["type"] == "missing"):
            located.append((loc, error))
        else:
            by_part.setdefault(loc[0], []).append((loc[1:], error))
    keys = value if isinstance(value, dict) else range(len(value)) if type(value) is list else ()
    members = []
    for part, inner_errors in by_part.items():
        if part in keys:
            located += [((part, *loc), error) for loc, error in _locate(inner_errors, value[part])]
        else:
            members.append(_locate(inner_errors, value))
    inside = [member for member in members if any(loc for loc, _ in member)]
    return located + (min(inside, key=lambda member: len(member)) if inside else sum(members, []))


def _complaints(schema: Schema, config: dict[str, Any], **how: Any) -> Iterator[Problem]:
    """Yield a schema's errors as problems; with `extra="forbid"`, without Axolotl's checks."""
    by_loc: dict[Loc, list[Any]] = {}
    for loc, error in _errors(schema, config, **how):
        by_loc.setdefault(loc, []).append(error)
    for loc, errors in by_loc.items():
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
            texts = [re.sub(noise, "", e["msg"]).replace("Input should", "must") for e in errors]
            message = " or ".join(dict.fromkeys(texts)).replace(" or must be ", " or ")
            block = value if isinstance(value, dict) else {}
            for line in message.splitlines() if is_ours else [message]:
                # a block's check mentions the key that it is about
                key_loc = (*loc, *[key for key in re.findall(r"\w+", line) if key in block][:1])
                what = f"`{dotted(loc)}`: {line}"
                if is_check:
                    what = f"Axolotl{f' refuses `{dotted(key_loc)}`' if key_loc else ''}: {line}"
                elif not block:
                    what += f" (found {reprlib.repr(value)})"
                yield Problem(key_loc, what)


def _numbers_as_text(fields: Schema, config: dict[str, Any]) -> Iterator[Problem]:
    """Yield numbers that YAML reads as text (`2e-4`, or quoted); pydantic may accept such text."""

    def takes(loc: Loc, value: Any, **how: Any) -> bool:
        changed = deepcopy(config)
        functools.reduce(getitem, loc[:-1], changed)[loc[-1]] = value
        errors = _errors(fields, changed, extra="forbid", **how)
        return not any(loc[: len(error_loc)] == error_loc for error_loc, _ in errors)

    todo: list[tuple[Loc, Any]] = [((), config)]
    for loc, text in todo:
        if isinstance(text, (dict, list)):
            items = text.items() if isinstance(text, dict) else enumerate(text)
            todo += [((*loc, key), value) for key, value in items]
        try:
            number = float(text if isinstance(text, str) else "none")
        except ValueError:
            continue
        # if the key takes any type, '12' may be meant as text
        is_number = re.fullmatch(r"[-+]?\d+(\.\d+)?[eE][-+]?\d+", text) or not takes(loc, object())
        if is_number and takes(loc, int(number) if number.is_integer() else number, strict=True):
            fix = "write a finite number"
            if isfinite(number):
                decimal = f"{Decimal(text.strip()):f}"
                fix = f"write {decimal}{' without quotes' if decimal == text else ''}"
            yield Problem(loc, f"`{dotted(loc)}`: {text} is text to YAML", fix)


def _unknown(loc: Loc, value: Any, schema: Schema, pydantic_loc: Loc) -> Iterator[Problem]:
    """Yield a key that the schema lacks, unless Axolotl still reads it: `fsdp_config.fsdp_...`."""
    key_config = value
    for part in reversed(loc):
        key_config = [key_config] if type(part) is int else {part: key_config}
    needed = {"base_model": "any", "learning_rate": 1.0, "datasets": [{"path": "any"}]}
    errors = _errors(_schemas((), False)[0], {**needed, **key_config}, extra="forbid")
    if not errors:
        return
    key, what, message = str(loc[-1]), f"unknown key `{dotted(loc)}`", errors[0][1]["msg"]
    schemas: list[Any] = [schema]  # after the loop, those of the key's block
    for part in pydantic_loc[:-1]:
        types = [s.model_fields[part].annotation for s in schemas if part in s.model_fields]
        for annotation in types:
            types += get_args(annotation)
        types = [a for a in types if isinstance(a, type) and issubclass(a, BaseModel)]
        # otherwise `part` is an index, or the name of a union's member
        schemas = types or [s for s in schemas if s.__name__ == part] or schemas
    known_keys = [field.alias or name for s in schemas for name, field in s.model_fields.items()]
    close = (
        difflib.get_close_matches(key, known_keys, n=1, cutoff=0.9)
        # for `lora_rank`, the name that it starts with: `lora_r`, although `local_rank` is closer
        or sorted((k for k in known_keys if len(k) > 3 and key.startswith(k)), key=len)[-1:]
        or difflib.get_close_matches(key, known_keys, n=1)
    )
    if f"`{key}`" in message:  # a removed key, such as `unsloth_lora_mlp`
        yield Problem(loc, what, message.removeprefix("Value error, "))
    elif close:
        yield Problem(loc, what, f"did you mean `{close[0]}`?", meant=(*loc[:-1], *close))
    elif len(known_keys) < 30:
        yield Problem(loc, what, f"known keys here: {', '.join(known_keys)}")
    else:
        yield Problem(loc, what, "remove it, or see Axolotl's documentation")
