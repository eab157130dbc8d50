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
