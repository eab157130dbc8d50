"""What pydantic and Axolotl's own checks say of a value, of a key and of a whole recipe."""

import functools
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from pydantic import TypeAdapter, ValidationError

from data_prep.strict.axolotl_schema import Leaf, Schema
from data_prep.strict.yaml_lines import Loc


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
    """Take out of pydantic's message what a person can do without."""
    message = re.sub(r", (unable to|got a) .*", "", message.removeprefix("Value error, "))
    return message.replace("Input should", "must")


def is_renamed(loc: Loc, value: Any) -> bool:
    """Whether Axolotl reads a key that its schema lacks, as it does `fsdp_config.fsdp_...`.

    It does so where the key makes a difference that an impossible one does not make.
    """
    outcomes = [_outcome(_alone(way, value)) for way in (loc, (*loc[:-1], "?"))]
    return all(isinstance(o, dict) for o in outcomes) and outcomes[0] != outcomes[1]


def refusal(loc: Loc, value: Any) -> str | None:
    """Axolotl's own words on a key that it has given up, such as `unsloth_lora_mlp`."""
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
    """Let a schema check a block as Axolotl will, in silence; return its complaints."""
    with _quiet():
        try:
            schema.model_validate(deepcopy(block))
        except Exception as error:
            return complaints(error)
    return []


@contextmanager
def _quiet() -> Iterator[None]:
    """Axolotl's checks say much, and say it again when it makes them itself."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
