"""A walk through a recipe beside the schema of the installed Axolotl, key by key.

The schema is read, never copied: another Axolotl brings its own keys. It drops a key that it does
not know without a word.
"""

import collections.abc
import functools
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AliasChoices, AliasPath, BaseModel

from data_prep.strict.yaml_lines import Loc

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
        # the limits of a field stand beside its annotation
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
    """Go through a recipe beside the schema, to the last value."""
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
