"""Refuse a recipe that would silently do something else than it says.

Use: `problems = find_problems(path, read_yaml(path))`; each is one line with the file, the line,
what is wrong and how to fix it. The schema of the installed Axolotl is read, never copied: another
Axolotl brings its own keys. By itself it silently drops a key that it does not know.
"""

import difflib
import functools
import logging
import pydoc
import re
import reprlib
import warnings
from collections.abc import Iterator
from copy import deepcopy
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any, get_args

from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from data_prep.contradictions import contradictions
from data_prep.errors import UserError
from data_prep.recipe_file import Loc, Problem, YamlFile, dotted
from data_prep.settings import Summarization

OUR_PLUGIN = "training.plugin.SummarizationPlugin"
EXPONENT = re.compile(r"[-+]?\d+(\.\d+)?[eE][-+]?\d+")
Schema = type[BaseModel]


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
    declared = tuple(name for plugin in plugins if (name := plugin.get_input_args()))
    schema = _schema(declared, bool(config.get("rl")))
    found = list(_numbers_as_text(schema, config))
    places = {problem.loc for problem in found}
    own = []  # what Axolotl's checks say of a block
    for loc, errors in _errors(schema, config).items():
        for problem in _problems(schema, loc, errors):
            if loc[:1] != ("summarization",) and errors[0]["type"] == "value_error":
                own.append(problem)
            elif problem.loc not in places:
                places.add(problem.loc)
                found.append(problem)
    found += bad_plugins
    found += [problem for problem in contradictions(config) if problem.loc not in places]
    found = _without_echoes(found)
    twice = [
        (line, f"{path}:{line}: `{key}` is in its block twice; keep one")
        for line, key in file.repeated
    ]
    if not found and not twice:  # what Axolotl says is often a consequence of what is above
        adapters = {c.name for plugin in plugins for c in plugin.get_adapter_capabilities()}
        if config.get("adapter") not in adapters:  # which Axolotl knows once training has begun
            axolotls = _axolotls(declared)
            complaints = _errors(axolotls, config, extra="ignore").items()
            own += [p for loc, said in complaints for p in _problems(axolotls, loc, said)]
            found = list(
                {problem.loc or problem.what: problem for problem in reversed(own)}.values()
            )
    said = [*twice, *(file.say(problem, config) for problem in found)]
    return [line for _, line in sorted(said, key=lambda pair: pair[0])]


# ---- schemas ----


@functools.cache
def _axolotls(declared: tuple[str, ...]) -> Schema:
    """Axolotl's schema with what plugins declare (Liger's, for instance), as Axolotl mixes it."""
    from axolotl.utils.schemas.config import AxolotlInputConfig

    others: list[Any] = [pydoc.locate(name) for name in declared]
    return create_model("AxolotlInputConfig", __base__=(AxolotlInputConfig, *others))


@functools.cache
def _schema(declared: tuple[str, ...], rl: bool) -> Schema:
    """The keys of `_axolotls` and our block, strict, without checks of the recipe as a whole.

    Those would hide what is wrong with single keys, for they run before or stop at the first.
    """
    from axolotl.utils.schemas.datasets import SFTDataset

    fields: dict[str, Any] = {"summarization": (Summarization, ...)}
    for name, field in _axolotls(declared).model_fields.items():
        fields[name] = (field.annotation, field)
    if not rl:
        # Axolotl reads them so, although its schema allows the keys of DPO and others here too
        fields |= dict.fromkeys(("datasets", "test_datasets"), (list[SFTDataset] | None, None))
    strict = ConfigDict(extra="forbid", validate_by_name=True, protected_namespaces=())
    return create_model("Recipe", __config__=strict, **fields)


def _plugins(names: Any) -> tuple[list[Any], list[Problem]]:
    """The recipe's other plugins, loaded, and what is wrong with `plugins:`.

    Ours is not imported for that: it is known, and brings Axolotl's trainer with it.
    """
    plugins: list[Any] = []
    found: list[Problem] = []
    names = [] if names is None else names
    if not isinstance(names, list):
        return plugins, found
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
            close = difflib.get_close_matches(str(name), [OUR_PLUGIN])
            fix = "correct its name, install its package, or remove it"
            fix = f"did you mean `{OUR_PLUGIN}`?" if close else fix
            meant = ("plugins",) if close else None
            found.append(Problem(("plugins", index), what, fix, meant=meant))
    if OUR_PLUGIN not in names:
        what = "our plugin is not under `plugins:`, so that training would check nothing of this"
        fix = f"add `- {OUR_PLUGIN}` there"
        found.append(Problem(("plugins",), what, fix, lacks=(("plugins",),)))
    return plugins, found


# ---- what pydantic and Axolotl's own checks say ----


def _errors(schema: Schema, config: Any, extra: Any = "forbid") -> dict[Loc, list[dict[str, Any]]]:
    """The errors of a recipe by the way to their value.

    pydantic names the member of a union within the way, and has the errors of every member. Of a
    block's, those of the member that it fits best are kept.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # Axolotl's checks log, and log again when Axolotl runs them
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schema.model_validate(deepcopy(config), extra=extra)
        return {}
    except ValidationError as error:
        errors: list[Any] = error.errors()
    except Exception as error:  # Axolotl's checks raise what they like
        errors = [{"loc": (), "type": "value_error", "msg": str(error), "input": config}]
    finally:
        logging.disable(before)
    unions: dict[Loc, dict[str, list[tuple[Loc, dict[str, Any]]]]] = {}
    for entry in errors:
        way: Loc = ()
        union: Loc = ()
        value, member = config, ""
        for part in entry["loc"]:
            is_index = isinstance(value, list) and type(part) is int and part < len(value)
            if is_index or (isinstance(value, dict) and part in value):
                way, value = (*way, part), value[part]
            elif entry["type"] == "missing" and part == entry["loc"][-1]:
                way = (*way, part)
            elif not member:
                union, member = way, str(part)
        if entry["type"] == "invalid_key":  # a date or null, say
            way, member = (*way, entry["input"]), ""
        unions.setdefault(union, {}).setdefault(member, []).append((way, entry))
    found: dict[Loc, list[dict[str, Any]]] = {}
    for union, members in unions.items():
        blocks = [m for m in members if m and any(way != union for way, _ in members[m])]
        best = min(blocks, key=lambda m: len(members[m]), default="")
        for member, located in members.items():
            if member in ("", best) or not best:
                for way, entry in located:
                    found.setdefault(way, []).append(entry)
    return found


def _problems(schema: Schema, loc: Loc, errors: list[dict[str, Any]]) -> Iterator[Problem]:
    """What the errors of one value come to."""
    kind, value = errors[0]["type"], errors[0]["input"]
    words = list(dict.fromkeys(_short(error["msg"]) for error in errors))
    if kind in ("extra_forbidden", "invalid_key"):
        yield from _unknown(schema, loc, value)
    elif loc == ("summarization",) and (kind == "missing" or not isinstance(value, dict)):
        what = "has no `summarization:` block"
        yield Problem(loc, what, "see recipes/smollm2_samsum.yml", lacks=(loc,))
    elif kind == "missing" or value is None:
        yield missing(loc)
    elif kind != "value_error":
        said = " or ".join([words[0], *(word.removeprefix("must be ") for word in words[1:])])
        yield Problem(loc, f"`{dotted(loc)}`: {said}{_found(value)}")
    else:
        for line in words[0].splitlines():
            # the first key of the block that the message names
            names = re.findall(r"\w+", line) if isinstance(value, dict) else []
            place = (*loc, *[name for name in names if name in value][:1])
            if loc[:1] == ("summarization",):
                yield Problem(place, f"`{dotted(loc)}`: {line}{_found(value)}")
            else:
                what = f"Axolotl refuses `{dotted(place)}`: {line}" if place else f"Axolotl: {line}"
                yield Problem(place, what, lacks=() if place else ((),))


def _short(message: str) -> str:
    message = re.sub(r", (unable to|got a) .*", "", message.removeprefix("Value error, "))
    return message.replace("Input should", "must")


def _found(value: Any) -> str:
    return "" if isinstance(value, dict) else f" (found {reprlib.repr(value)})"


def missing(loc: Loc) -> Problem:
    """A key that must be set."""
    return Problem(loc, f"`{dotted(loc)}` is missing", "set it", lacks=(loc,))


def _numbers_as_text(schema: Schema, config: dict[str, Any]) -> Iterator[Problem]:
    """YAML reads `2e-4`, and what is in quotes, as text."""

    def takes(loc: Loc, value: Any) -> bool:
        changed = block = deepcopy(config)
        for part in loc[:-1]:
            block = block[part]
        block[loc[-1]] = value
        return not any(way[: len(loc)] == loc for way in _errors(schema, changed))

    def texts(value: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:
        if isinstance(value, str):
            yield loc, value
        elif isinstance(value, (dict, list)):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                yield from texts(item, (*loc, key))

    for loc, text in texts(config, ()):
        try:
            number = float(text)
        except ValueError:
            continue
        if takes(loc, object()):  # free-form: what looks like a number may be meant as text
            is_number = bool(EXPONENT.fullmatch(text))
        else:  # a switch takes 0 and 1 too, and the words for them
            is_number = takes(loc, number) and not (text in ("0", "1") and takes(loc, "yes"))
        if is_number:
            what = f"`{dotted(loc)}`: {text} is text to YAML"
            decimal = f"{Decimal(text.strip()):f}" if isfinite(number) else "a finite number"
            quotes = " without quotes" if decimal == text else ""
            yield Problem(loc, what, f"write {decimal}{quotes}")


# ---- unknown keys ----


def _unknown(schema: Schema, loc: Loc, value: Any) -> Iterator[Problem]:
    """An unknown key, unless Axolotl reads it nevertheless, as it does `fsdp_config.version`."""
    key, what = loc[-1], f"unknown key `{dotted(loc)}`"
    outcome = _outcome(loc, value) if isinstance(key, str) else ""
    if not isinstance(outcome, str) and outcome != _outcome((*loc[:-1], "?"), value):
        return
    known = dict(_fields(schema, loc[:-1]))
    close = (
        difflib.get_close_matches(str(key), known, n=1, cutoff=0.9)
        # for `lora_rank` the name that it begins with: `lora_r`, although `local_rank` is closer
        or sorted((k for k in known if len(k) > 3 and str(key).startswith(k)), key=len)[-1:]
        or difflib.get_close_matches(str(key), known, n=1)
    )
    if isinstance(outcome, str) and f"`{key}`" in outcome:  # in Axolotl's words, why it is gone
        yield Problem(loc, what, outcome)
    elif close:
        meant = (*loc[:-1], close[0])
        yield Problem(loc, what, f"did you mean `{close[0]}`?", meant=meant)
    elif len(known) < 20:
        yield Problem(loc, what, f"known there: {', '.join(known)}")
    else:
        yield Problem(loc, what, "remove it, or see Axolotl's documentation")


def _outcome(loc: Loc, value: Any) -> dict[str, Any] | str:
    """What Axolotl makes of a recipe with this key alone, or its first complaint."""
    for part in reversed(loc):
        value = [value] if type(part) is int else {part: value}
    config = {"base_model": "any", "learning_rate": 1.0, "datasets": [{"path": "any"}], **value}
    if errors := _errors(_axolotls(()), config, extra="ignore"):
        return _short(next(iter(errors.values()))[0]["msg"])
    return _axolotls(()).model_validate(config).model_dump()


def _fields(schema: Schema, way: Loc) -> Iterator[tuple[str, FieldInfo]]:
    """The keys of the blocks at the end of a way, under every name that a recipe can use."""

    def blocks(annotation: Any) -> Iterator[Schema]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        for inner in get_args(annotation):
            yield from blocks(inner)

    schemas = [schema]
    for part in way:
        if type(part) is not int:
            fields = [f for one in schemas for name, f in _fields(one, ()) if name == part]
            schemas = [block for field in fields for block in blocks(field.annotation)]
    for one in schemas:
        for name, field in one.model_fields.items():
            alias = field.validation_alias
            choices = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
            yield from ((str(choice), field) for choice in choices)


def _without_echoes(found: list[Problem]) -> list[Problem]:
    """Leave out what is lacking only because its key is misspelt or its value is wrong."""
    meant = {problem.meant for problem in found if problem.meant}
    places = {problem.loc for problem in found}

    def is_echo(problem: Problem) -> bool:
        causes = meant | (places - {problem.loc})
        return any(lack[: len(loc)] == loc for lack in problem.lacks for loc in causes)

    return [problem for problem in found if not is_echo(problem)]
