"""What is wrong with the values of a recipe: text for a number, the wrong type, nothing at all."""

import re
import reprlib
from collections.abc import Iterable, Iterator
from decimal import Decimal
from math import isfinite
from typing import Any

from pydantic import ValidationError

from data_prep.settings import Summarization
from data_prep.strict.axolotl_checks import misfit, short, validate
from data_prep.strict.axolotl_schema import Block, Leaf, Schema, options_of
from data_prep.strict.yaml_lines import Loc, Problem, dotted

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
    """YAML reads `2e-4`, and what stands in quotes, as text."""
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
