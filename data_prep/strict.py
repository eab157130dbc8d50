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
from operator import getitem
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from data_prep.contradictions import contradictions
from data_prep.errors import UserError
from data_prep.recipe_file import Loc, Problem, YamlFile, dotted
from data_prep.settings import Summarization

OUR_PLUGIN = "training.plugin.SummarizationPlugin"
EXPONENT = re.compile(r"[-+]?\d+(\.\d+)?[eE][-+]?\d+")
Schema = type[BaseModel]
Errors = list[tuple[Loc, Any]]  # what pydantic complains of, each with its place


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
    plugins, found = _plugins(config.get("plugins"))
    others = tuple(plugin.get_input_args() for plugin in plugins)
    schema, fields = _schemas(others, bool(config.get("rl")))
    for more in (_numbers_as_text(fields, config), _complaints(fields, config, extra="forbid"),
                 contradictions(config)):  # fmt: skip
        places = {problem.loc for problem in found}
        found += [problem for problem in more if problem.loc not in places]
    found = _without_echoes(found)
    twice = [
        (line, f"{path}:{line}: `{key}` is in its block twice; keep one")
        for line, key in file.repeated
    ]
    # what Axolotl's own checks say is often a consequence of what is above; and an adapter of a
    # plugin is one that Axolotl knows only once training has begun
    adapters = {c.name for plugin in plugins for c in plugin.get_adapter_capabilities()}
    if not found and not twice and config.get("adapter") not in adapters:
        found = _complaints(schema, config)
    said = [*twice, *(file.say(problem, config) for problem in found)]
    return [line for _, line in sorted(said, key=lambda pair: pair[0])]


def _plugins(names: Any) -> tuple[list[Any], list[Problem]]:
    """The recipe's other plugins, loaded, and what is wrong with `plugins:`.

    Ours is not imported for that: it is known, and brings Axolotl's trainer with it.
    """
    plugins, found = [], []
    names = [] if names is None else names
    if not isinstance(names, list):
        return [], []
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


# ---- what pydantic says along Axolotl's schema ----


@functools.cache
def _schemas(of_plugins: tuple[str | None, ...], rl: bool) -> tuple[Schema, Schema]:
    """Axolotl's schema with what plugins declare (Liger's, for instance), as Axolotl mixes it.

    The second has the same fields and our block, and none of the checks of the top level: those
    rename keys, and stop at the first that they refuse.
    """
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from axolotl.utils.schemas.datasets import SFTDataset

    others: list[Any] = [pydoc.locate(name) for name in of_plugins if name]
    schema = create_model("AxolotlInputConfig", __base__=(AxolotlInputConfig, *others))
    fields: dict[str, Any] = {key: (f.annotation, f) for key, f in schema.model_fields.items()}
    fields["summarization"] = (Summarization, ...)
    if not rl:  # Axolotl reads them so, although its schema has the keys of DPO and others here too
        fields |= dict.fromkeys(("datasets", "test_datasets"), (list[SFTDataset] | None, None))
    return schema, create_model("Fields", __config__=ConfigDict(populate_by_name=True), **fields)


def _validate(schema: Schema, config: dict[str, Any], **how: Any) -> BaseModel | list[Any] | str:
    """What a schema makes of a recipe, or its complaints, or the words with which a check ended.

    Silently: Axolotl's checks log, and log again when Axolotl runs them itself.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return schema.model_validate(deepcopy(config), **how)
    except ValidationError as error:
        return error.errors()
    except Exception as error:  # Axolotl's checks raise what they like
        return str(error)
    finally:
        logging.disable(before)


def _errors(schema: Schema, config: dict[str, Any], **how: Any) -> Errors:
    outcome = _validate(schema, config, **how)
    if isinstance(outcome, BaseModel):
        return []
    if isinstance(outcome, list):
        return _places([(error["loc"], error) for error in outcome], config)
    # a check ended at a value that it did not expect: which one is it, and what of the others?
    bad = [k for k, v in config.items() if isinstance(_validate(schema, {k: v}, **how), str)]
    if not bad:
        return [((), {"type": "value_error", "msg": outcome})]
    error = {"type": "", "msg": "has a value of the wrong kind"}
    others = {key: value for key, value in config.items() if key not in bad}
    return [*(((key,), error) for key in bad), *_errors(schema, others, **how)]


def _places(errors: Errors, value: Any) -> Errors:
    """Each complaint with its place in `value`.

    Where pydantic has a union, it puts the names of the members in between, with what each says. Of
    those that look inside the value, the one with the least to say counts, otherwise all.
    """
    found: Errors = []
    below: dict[Any, Errors] = {}
    for loc, error in errors:
        if error["type"] == "invalid_key":  # no text
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


def _complaints(schema: Schema, config: dict[str, Any], **how: Any) -> list[Problem]:
    """What a schema says of a recipe, one problem a place.

    With `extra="forbid"` it is about keys and values, and what Axolotl's checks say is left out.
    """
    together: dict[Loc, list[Any]] = {}
    for loc, error in _errors(schema, config, **how):
        together.setdefault(loc, []).append(error)
    found: dict[Any, Problem | None] = {}
    for loc, errors in together.items():
        kind, is_ours = errors[0]["type"], loc[:1] == ("summarization",)
        value = None if kind == "missing" else functools.reduce(getitem, loc, config)
        is_check = kind in ("value_error", "assertion_error") and not is_ours
        if kind == "extra_forbidden":
            found[loc] = _unknown(loc, value, _known(schema, errors[0]["loc"]))
        elif value is None and kind != "invalid_key":
            found[loc] = Problem(loc, f"`{dotted(loc)}` is missing", "set it", lacks=(loc,))
        elif not (is_check and how):
            said = [error["msg"].removeprefix("Value error, ") for error in errors]
            said = [re.sub(r", (unable to|got a) .*", "", words) for words in said]
            said = [words.replace("Input should", "must") for words in dict.fromkeys(said)]
            words = " or ".join(said).replace(" or must be ", " or ")
            for line in words.splitlines() if is_ours else [words]:
                # a check of a block names the key that it means
                names = re.findall(r"\w+", line) if isinstance(value, dict) else []
                place = (*loc, *[name for name in names if name in value][:1])
                what = f"`{dotted(loc)}`: {line}"
                if is_check:
                    what = f"Axolotl refuses `{dotted(place)}`: {line}" if place else line
                elif not isinstance(value, dict):
                    what += f" (found {reprlib.repr(value)})"
                found.setdefault(place or what, Problem(place, what, lacks=() if place else ((),)))
    return [problem for problem in found.values() if problem]


# ---- text that is meant as a number ----


def _numbers_as_text(fields: Schema, config: dict[str, Any]) -> Iterator[Problem]:
    """YAML reads `2e-4`, and what is in quotes, as text, and pydantic may take it for a number."""
    texts: dict[Loc, str] = {}
    numbers, anything = deepcopy(config), deepcopy(config)
    for loc, text in _texts(config):
        try:
            number = float(text)
        except ValueError:
            continue
        texts[loc] = text
        number = int(number) if number.is_integer() else number
        functools.reduce(getitem, loc[:-1], numbers)[loc[-1]] = number
        functools.reduce(getitem, loc[:-1], anything)[loc[-1]] = object()
    if not texts:
        return
    no_number = {loc for loc, _ in _errors(fields, numbers, extra="forbid", strict=True)}
    not_free = {loc for loc, _ in _errors(fields, anything, extra="forbid")}
    for loc, text in texts.items():
        # where anything is taken, text such as '12' may be meant as text
        is_number = loc in not_free or EXPONENT.fullmatch(text)
        if is_number and not any(loc[:end] in no_number for end in range(len(loc) + 1)):
            fix = "write a finite number"
            if isfinite(float(text)):
                decimal = f"{Decimal(text.strip()):f}"
                fix = f"write {decimal}{' without quotes' if decimal == text else ''}"
            yield Problem(loc, f"`{dotted(loc)}`: {text} is text to YAML", fix)


def _texts(block: Any, loc: Loc = ()) -> Iterator[tuple[Loc, str]]:
    items = block.items() if isinstance(block, dict) else enumerate(block)
    for key, value in items:
        if isinstance(value, str):
            yield (*loc, key), value
        elif isinstance(value, (dict, list)):
            yield from _texts(value, (*loc, key))


# ---- unknown keys ----


def _unknown(loc: Loc, value: Any, known: list[str]) -> Problem | None:
    """What is to be said of a key that the schema lacks; None where Axolotl reads it all the same.

    As it does `fsdp_config.fsdp_...`: then the key makes a difference that an impossible one does
    not make. On some that it no longer has, such as `unsloth_lora_mlp`, it has words of its own.
    """
    outcomes = []
    for way in (loc, (*loc[:-1], "?")):
        alone = value
        for part in reversed(way):
            alone = [alone] if type(part) is int else {part: alone}
        needed = {"base_model": "any", "learning_rate": 1.0, "datasets": [{"path": "any"}]}
        outcomes.append(_validate(_schemas((), False)[0], {**needed, **alone}))
    outcome, without = outcomes
    if isinstance(outcome, BaseModel) and isinstance(without, BaseModel) and outcome != without:
        return None
    key, what = str(loc[-1]), f"unknown key `{dotted(loc)}`"
    if isinstance(outcome, list) and f"`{key}`" in outcome[0]["msg"]:
        return Problem(loc, what, outcome[0]["msg"].removeprefix("Value error, "))
    close = (
        difflib.get_close_matches(key, known, n=1, cutoff=0.9)
        # for `lora_rank` the name that it begins with: `lora_r`, although `local_rank` is closer
        or sorted((k for k in known if len(k) > 3 and key.startswith(k)), key=len)[-1:]
        or difflib.get_close_matches(key, known, n=1)
    )
    if close:
        return Problem(loc, what, f"did you mean `{close[0]}`?", meant=(*loc[:-1], *close))
    if len(known) < 20:
        return Problem(loc, what, f"known there: {', '.join(known)}")
    return Problem(loc, what, "remove it, or see Axolotl's documentation")


def _known(schema: Schema, loc: Loc) -> list[str]:
    """The keys beside the one that pydantic names by `loc`."""
    schemas = [schema]
    for part in loc[:-1]:
        fields = [s.model_fields[part] for s in schemas if part in s.model_fields]
        inside = [inner for field in fields for inner in _schemas_in(field.annotation)]
        # else an index, or the name of a union's member
        schemas = inside or [s for s in schemas if s.__name__ == part] or schemas
    return [field.alias or name for s in schemas for name, field in s.model_fields.items()]


def _schemas_in(annotation: Any) -> list[Schema]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [schema for part in get_args(annotation) for schema in _schemas_in(part)]


def _without_echoes(found: list[Problem]) -> list[Problem]:
    """Leave out what is lacking only because its key is misspelt or its value is wrong."""
    meant = {problem.meant for problem in found if problem.meant}
    places = {problem.loc for problem in found}

    def is_echo(problem: Problem) -> bool:
        causes = meant | (places - {problem.loc})
        return any(lack[: len(loc)] == loc for lack in problem.lacks for loc in causes)

    return [problem for problem in found if not is_echo(problem)]
