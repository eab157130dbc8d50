"""JSON and JSONL rows with a dialogue in a field each: `{"id": ..., "dialogue": "Anna: hi"}`."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from data_prep.errors import UserError
from eval.chats.chat import Chat
from eval.chats.plain import parse_plain


def parse_lines(text: str, place: str, field: str) -> Iterator[Chat | UserError]:
    """A chat of each line; for a bad line the error, and then the others."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        shown = f"{place}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield UserError(f"{shown}: is not JSON ({error}); mend the line")
            continue
        yield _row(row, shown, field)


def parse_rows(rows: Iterable[Any], place: str, field: str) -> Iterator[Chat | UserError]:
    """A chat of each object of a list."""
    for number, row in enumerate(rows, 1):
        yield _row(row, f"{place} row {number}", field)


def _row(row: Any, place: str, field: str) -> Chat | UserError:
    if not isinstance(row, dict):
        return UserError(f"{place}: is no object; each row must be like {{{field!r}: 'Anna: hi'}}")
    if field not in row:
        found = ", ".join(map(str, row)) or "none"
        return UserError(
            f"{place}: has no field `{field}` (found: {found}); name the right one with "
            "--dialogue-field"
        )
    text = row[field]
    if not isinstance(text, str):
        return UserError(f"{place}: `{field}` is {type(text).__name__}, not text; mend the row")
    row_id = row.get("id")
    known = isinstance(row_id, (str, int))
    try:
        return Chat(place, str(row_id) if known else place, parse_plain(text, place), row_id)
    except UserError as error:
        return error
