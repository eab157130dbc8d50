"""Refuse a recipe that would silently do something else than it says.

Use: `problems = find_problems(path, read_yaml(path))`; each is one line with the file, the line,
what is wrong and how to fix it. The schema of the installed Axolotl is read, never copied: another
Axolotl brings its own keys. By itself it silently drops a key that it does not know.
"""

import collections.abc
import difflib
import functools
import logging
import pydoc
import re
import reprlib
import types
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AliasChoices, AliasPath, BaseModel, TypeAdapter, ValidationError, create_model

from data_prep.contradictions import contradictions
from data_prep.errors import UserError
from data_prep.recipe_file import Loc, Problem, YamlFile, dotted
from data_prep.settings import Summarization

OUR_PLUGIN = "training.plugin.SummarizationPlugin"


# ---- a walk through a recipe along the schema, key by key ----

Keys = dict[str, Any]  # the names of a block, and the annotation of each one's value
Schema = type[BaseModel]


@dataclass(frozen=True)
class Unknown:
    """A key that its block does not have, and those that it has."""

    loc: Loc
    value: Any
    known: Keys


@dataclass(frozen=True)
class Leaf:
    """A value that is no block with keys of its own, and the annotation that it must fit."""

    loc: Loc
    value: Any
    annotation: Any


@dataclass(frozen=True)
class Block:
    """A block with keys, and the schema that it is read with."""

    loc: Loc
    value: dict[str, Any]
    schema: Schema


@functools.cache
def keys_of(schema: Schema) -> Keys:
    """Every name under which a recipe can set a schema's fields."""
    keys = {}
    for name, field in schema.model_fields.items():
        # the limits of a field are next to its annotation
        annotation = Annotated[(field.annotation, *field.metadata)] if field.metadata else None
        for key in _names(field.validation_alias) or [name]:
            keys[key] = annotation or field.annotation
    return keys


def _names(alias: str | AliasPath | AliasChoices | None) -> list[str]:
    if isinstance(alias, AliasChoices):
        return [name for choice in alias.choices for name in _names(choice)]
    if isinstance(alias, AliasPath):
        return [str(alias.path[0])]
    return [alias] if alias else []


def walk(block: dict[str, Any], keys: Keys, loc: Loc = ()) -> Iterator[Unknown | Leaf | Block]:
    """Go through a recipe along the schema, to the last value."""
    for key, value in block.items():
        if key in keys:
            yield from _walk_value(value, keys[key], (*loc, key))
        else:
            yield Unknown((*loc, key), value, keys)


def _walk_value(value: Any, annotation: Any, loc: Loc) -> Iterator[Unknown | Leaf | Block]:
    options = list(options_of(annotation))
    schemas = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
    if isinstance(value, dict) and schemas:
        # of a union's members, the one with a place for most keys; the first of equals
        schema = min(schemas, key=lambda s: _misplaced(value, s))
        yield Block(loc, value, schema)
        yield from walk(value, keys_of(schema), loc)
    elif isinstance(value, dict) and (inside := _inside(options, collections.abc.Mapping)):
        for key, item in value.items():
            yield from _walk_value(item, inside, (*loc, key))
    elif isinstance(value, list) and (inside := _inside(options, collections.abc.Collection)):
        for index, item in enumerate(value):
            yield from _walk_value(item, inside, (*loc, index))
    else:
        yield Leaf(loc, value, annotation)


def _misplaced(block: dict[str, Any], schema: Schema) -> int:
    return sum(isinstance(step, Unknown) for step in walk(block, keys_of(schema)))


def options_of(annotation: Any) -> Iterator[Any]:
    """What a value may be: the members of a union, without what `Annotated` adds."""
    if get_origin(annotation) is Annotated:
        yield from options_of(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for option in get_args(annotation):
            yield from options_of(option)
    else:
        yield annotation


def _inside(options: list[Any], container: type) -> Any:
    """The annotation of a container's values: Any where it is free, None where none is allowed."""
    inside: list[Any] = [Any] if Any in options else []
    for option in options:
        kind = get_origin(option) or option
        is_mapping = isinstance(kind, type) and issubclass(kind, collections.abc.Mapping)
        if not isinstance(kind, type) or not issubclass(kind, container) or kind in (str, bytes):
            continue
        if is_mapping == (container is collections.abc.Mapping):
            args = [arg for arg in get_args(option) if arg is not ...]
            inside += (args[1:] if is_mapping else args) or [Any]
    return Union[tuple(inside)] if inside else None  # noqa: UP007 - `|` takes no list


# ---- what pydantic and Axolotl's own checks say ----


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


def misfit(leaf: Leaf) -> str | None:
    """What pydantic says of a value that does not fit its annotation, in a few words."""
    with _quiet():
        try:
            _adapter(leaf.annotation).validate_python(leaf.value)
        except ValidationError as error:
            first, *others = dict.fromkeys(short(problem["msg"]) for problem in error.errors())
            return " or ".join([first, *(words.removeprefix("must be ") for words in others)])
        except Exception:  # a check of a block was given something else
            return "must be `key: value` lines"
    return None


def short(message: str) -> str:
    """Shorten pydantic's message."""
    message = re.sub(r", (unable to|got a) .*", "", message.removeprefix("Value error, "))
    return message.replace("Input should", "must")


def is_renamed(loc: Loc, value: Any) -> bool:
    """Whether Axolotl reads a key that its schema lacks, as it does `fsdp_config.fsdp_...`.

    It does so where the key makes a difference that an impossible one does not make.
    """
    outcomes = [_outcome(_alone(way, value)) for way in (loc, (*loc[:-1], "?"))]
    return all(isinstance(o, dict) for o in outcomes) and outcomes[0] != outcomes[1]


def refusal(loc: Loc, value: Any) -> str | None:
    """Axolotl's own words on a key that it no longer has, such as `unsloth_lora_mlp`."""
    outcome = _outcome(_alone(loc, value))
    return outcome if isinstance(outcome, str) and f"`{loc[-1]}`" in outcome else None


def _alone(loc: Loc, value: Any) -> dict[str, Any]:
    for part in reversed(loc):
        value = [value] if type(part) is int else {part: value}
    return {"base_model": "any", "learning_rate": 1.0, "datasets": [{"path": "any"}], **value}


def _outcome(config: dict[str, Any]) -> dict[str, Any] | str:
    """What Axolotl makes of a recipe, or its first complaint."""
    from axolotl.utils.schemas.config import AxolotlInputConfig

    with _quiet():
        try:
            return AxolotlInputConfig.model_validate(deepcopy(config)).model_dump()
        except Exception as error:  # its checks raise what they like
            return complaints(error)[0][1]


def complaints(error: Exception) -> list[tuple[Loc, str]]:
    """The place and the words of each complaint in an error that validation has raised."""
    if isinstance(error, ValidationError):
        return [(problem["loc"], short(problem["msg"])) for problem in error.errors()]
    return [((), str(error))]


def validate(schema: Schema, block: dict[str, Any]) -> list[tuple[Loc, str]]:
    """Let a schema check a block silently, as Axolotl will; return its complaints."""
    with _quiet():
        try:
            schema.model_validate(deepcopy(block))
        except Exception as error:
            return complaints(error)
    return []


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Axolotl's checks: they log, and log again when Axolotl runs them itself."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# ---- values ----

EXPONENT = re.compile(r"[-+]?\d+(\.\d+)?[eE][-+]?\d+")


def value_problems(leaves: list[Leaf], block: Any) -> list[Problem]:
    """One problem a value, the most telling; `block` is the `summarization:` block."""
    found: dict[Loc, Problem] = {}
    for problem in (
        *(_number_as_text(leaf) for leaf in leaves),
        *_block_problems(block),
        *(_misfit(leaf) for leaf in leaves),
    ):
        if problem:
            found.setdefault(problem.loc, problem)
    return list(found.values())


def missing(loc: Loc) -> Problem:
    """A key that must be set."""
    return Problem(loc, f"`{dotted(loc)}` is missing", "set it", lacks=(loc,))


def _number_as_text(leaf: Leaf) -> Problem | None:
    """YAML reads `2e-4`, and what is in quotes, as text."""
    options = list(options_of(leaf.annotation))
    if not isinstance(leaf.value, str):
        return None
    if Any in options:  # free-form: text that looks like a number may be meant as text
        is_number = bool(EXPONENT.fullmatch(leaf.value))
    else:
        is_number = bool({int, float} & set(options)) and _is_float(leaf.value)
    if not is_number:
        return None
    what = f"`{dotted(leaf.loc)}`: {leaf.value} is text to YAML"
    if not isfinite(float(leaf.value)):
        return Problem(leaf.loc, what, "write a finite number")
    decimal = f"{Decimal(leaf.value.strip()):f}"
    quotes = " without quotes" if decimal == leaf.value else ""
    return Problem(leaf.loc, what, f"write {decimal}{quotes}")


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _misfit(leaf: Leaf) -> Problem | None:
    words = misfit(leaf)
    if words and leaf.value is None:
        return missing(leaf.loc)
    return Problem(leaf.loc, _found(leaf.loc, words, leaf.value)) if words else None


def _found(loc: Loc, words: str, value: Any) -> str:
    found = "" if isinstance(value, dict) else f" (found {reprlib.repr(value)})"
    return f"`{dotted(loc)}`: {words}{found}"


def _block_problems(block: Any) -> Iterator[Problem]:
    """All that our own schema, which is strict about types, says of the `summarization:` block."""
    loc: Loc = ("summarization",)
    if not isinstance(block, dict):
        what = "has no `summarization:` block"
        yield Problem(loc, what, "see recipes/smollm2_samsum.yml", lacks=(loc,))
        return
    try:
        Summarization.model_validate(block)
    except ValidationError as error:
        for problem in error.errors():
            loc = ("summarization", *problem["loc"])
            if problem["type"] == "missing" or problem["input"] is None:
                yield missing(loc)
            elif problem["type"] != "extra_forbidden":  # the walk along the schema names these
                for words in short(problem["msg"]).splitlines():
                    place = (*loc, *_mentioned(words, problem["input"]))
                    yield Problem(place, _found(loc, words, problem["input"]))


def axolotls_own(blocks: Iterable[Block]) -> list[Problem]:
    """What the checks of Axolotl say of these blocks, at the key of which they speak."""
    found: dict[Any, Problem] = {}
    for block in blocks:
        for loc, words in validate(block.schema, block.value):
            way, value = _follow(block.value, loc)
            place = (*block.loc, *way, *_mentioned(words, value))
            what = f"Axolotl refuses `{dotted(place)}`: {words}" if place else f"Axolotl: {words}"
            problem = Problem(place, what, lacks=() if place else ((),))
            if words == "Field required":
                problem = missing((*block.loc, *way, loc[-1]))
            found.setdefault(problem.loc or what, problem)  # of a union's complaints, the first
    return list(found.values())


def _follow(value: Any, loc: Loc) -> tuple[Loc, Any]:
    """The way that `loc` means: pydantic puts the names of a union's members in between."""
    way: Loc = ()
    for part in loc:
        keys = value if isinstance(value, dict) else range(len(value) if type(value) is list else 0)
        if part in keys:
            way, value = (*way, part), value[part]
    return way, value


def _mentioned(words: str, block: Any) -> Loc:
    """The first key of a block that a message names."""
    names = re.findall(r"\w+", words) if isinstance(block, dict) else []
    return tuple(name for name in names if name in block)[:1]


def required(schema: Schema, config: dict[str, Any]) -> list[Problem]:
    """The keys without which a schema cannot be."""
    fields = schema.model_fields.items()
    return [missing((k,)) for k, field in fields if field.is_required() and k not in config]


# ---- all problems of a recipe ----


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a recipe's keys.

    Raises UserError where the file is missing, is not UTF-8, is not YAML, holds a key twice in one
    block, or holds no `key: value` lines.
    """
    file = YamlFile(path)
    for line, key in file.repeated:
        raise UserError(f"{path}:{line}: `{key}` is in its block twice; keep one")
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
    schema = _schema(plugins)
    steps = list(walk(config, _keys(schema, config)))
    found = [
        _unknown(step)
        for step in steps
        if isinstance(step, Unknown)
        and not (isinstance(step.loc[-1], str) and is_renamed(step.loc, step.value))
    ]
    leaves = [step for step in steps if isinstance(step, Leaf)]
    found += value_problems(leaves, config.get("summarization"))
    found += [*required(schema, config), *bad_plugins]
    places = {problem.loc for problem in found}
    found += [problem for problem in contradictions(config) if problem.loc not in places]
    found = _without_echoes(found)
    twice = [
        (line, f"{path}:{line}: `{key}` is in its block twice; keep one")
        for line, key in file.repeated
    ]
    if not found and not twice:  # what Axolotl says is often a consequence of what is above
        adapters = {c.name for plugin in plugins for c in plugin.get_adapter_capabilities()}
        if config.get("adapter") not in adapters:  # which Axolotl knows once training has begun
            inner = [s for s in steps if isinstance(s, Block) and s.loc[0] != "summarization"]
            found = axolotls_own([Block((), config, schema), *inner])
    said = [*twice, *(file.say(problem, config) for problem in found)]
    return [line for _, line in sorted(said, key=lambda pair: pair[0])]


def _keys(schema: Schema, config: dict[str, Any]) -> Keys:
    """The top level: Axolotl's keys, those of the recipe's other plugins, and our block."""
    from axolotl.utils.schemas.datasets import SFTDataset

    keys = {**keys_of(schema), "summarization": Summarization}
    if not config.get("rl"):
        # Axolotl reads them so, although its schema allows the keys of DPO and others here too
        keys |= dict.fromkeys(("datasets", "test_datasets"), list[SFTDataset] | None)
    return keys


def _plugins(names: Any) -> tuple[list[Any], list[Problem]]:
    """The recipe's other plugins, loaded, and what is wrong with `plugins:`.

    Ours is not imported for that: it is known, and brings Axolotl's trainer with it.
    """
    plugins, found = [], []
    names = [] if names is None else names
    if not isinstance(names, list):
        return [], []
    for index, name in enumerate(names):
        if name != OUR_PLUGIN:
            from axolotl.integrations.base import load_plugin

            try:
                plugin = load_plugin(name)
                plugin.get_input_args()
                plugins.append(plugin)
            except Exception as error:  # whatever a module does on import
                found.append(_bad_plugin(("plugins", index), name, error))
    if OUR_PLUGIN not in names:
        what = "our plugin is not under `plugins:`, so that training would check nothing of this"
        fix = f"add `- {OUR_PLUGIN}` there"
        found.append(Problem(("plugins",), what, fix, lacks=(("plugins",),)))
    return plugins, found


def _schema(plugins: list[Any]) -> Schema:
    """Axolotl's schema with what plugins declare (Liger's, for instance), as Axolotl mixes it."""
    from axolotl.utils.schemas.config import AxolotlInputConfig

    names = [plugin.get_input_args() for plugin in plugins]
    others: list[Any] = [pydoc.locate(name) for name in names if name]
    if not others:
        return AxolotlInputConfig
    return create_model("AxolotlInputConfig", __base__=(AxolotlInputConfig, *others))


def _bad_plugin(loc: Loc, name: Any, error: Exception) -> Problem:
    reason = error if "." in str(name) else "it names no module"
    what = f"plugin `{name}` cannot be loaded ({reason}), and Axolotl may train without it"
    if difflib.get_close_matches(str(name), [OUR_PLUGIN]):
        return Problem(loc, what, f"did you mean `{OUR_PLUGIN}`?", meant=("plugins",))
    return Problem(loc, what, "correct its name, install its package, or remove it")


def _unknown(step: Unknown) -> Problem:
    close = _nearest(str(step.loc[-1]), step.known)
    what, meant = f"unknown key `{dotted(step.loc)}`", (*step.loc[:-1], *close) if close else None
    if isinstance(step.loc[-1], str) and (words := refusal(step.loc, step.value)):
        return Problem(step.loc, what, words)
    if close:
        return Problem(step.loc, what, f"did you mean `{close[0]}`?", meant=meant)
    if len(step.known) < 20:
        return Problem(step.loc, what, f"known there: {', '.join(step.known)}")
    return Problem(step.loc, what, "remove it, or see Axolotl's documentation")


def _nearest(key: str, known: Keys) -> list[str]:
    """The one valid name that a key probably means, or none."""
    return (
        difflib.get_close_matches(key, known, n=1, cutoff=0.9)
        # for `lora_rank` the name that it begins with: `lora_r`, although `local_rank` is closer
        or sorted((k for k in known if len(k) > 3 and key.startswith(k)), key=len)[-1:]
        or difflib.get_close_matches(key, known, n=1)
    )


def _without_echoes(found: list[Problem]) -> list[Problem]:
    """Leave out what is lacking only because its key is misspelt or its value is wrong."""
    meant = {problem.meant for problem in found if problem.meant}
    places = {problem.loc for problem in found}

    def is_echo(problem: Problem) -> bool:
        causes = meant | (places - {problem.loc})
        return any(lack[: len(loc)] == loc for lack in problem.lacks for loc in causes)

    return [problem for problem in found if not is_echo(problem)]
