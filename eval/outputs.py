"""Read anybody's outputs and references: JSON and CSV with fields by option, or one text a line."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.errors import UserError


class Fields(NamedTuple):
    """Names of the fields (JSONL) or columns (CSV); a plain-text file has none."""

    prediction: str = "prediction"
    reference: str = "reference"
    dialogue: str = "dialogue"
    id: str = "id"


class Row(NamedTuple):
    """One record of a file: its fields, and where it stands, for messages."""

    place: str
    fields: dict[str, Any]

    def text(self, field: str) -> str:
        """The text of a field; raises UserError where it is missing or no text."""
        if field not in self.fields:
            raise UserError(
                f"{self.place}: has no field `{field}` (found: {', '.join(self.fields)}); name the "
                "right one with --prediction-field, --reference-field and the like, or give "
                "--references"
            )
        value = self.fields[field]
        if not isinstance(value, str):
            raise UserError(f"{self.place}: `{field}` is {value!r}, not text; mend the row")
        return value


def read_records(path: Path, text_field: str) -> list[Row]:
    """Every record of `path`; a line of plain text becomes the field `text_field`.

    Raises UserError where the file is missing, is empty, is not UTF-8 or breaks off in a record.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if not text.strip():
        raise UserError(f"{path}: is empty; expected a record a line")
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}
    if path.suffix in readers:
        return list(readers[path.suffix](path, text))
    lines = text.removesuffix("\n").split("\n")
    return [Row(f"{path}:{n}", {text_field: line.rstrip("\r")}) for n, line in enumerate(lines, 1)]


def align(rows: list[Row], references: list[Row], id_field: str, path: Path) -> list[Row]:
    """`rows` in the order of `references`, by id where both have one, else by their order.

    Raises UserError where the two differ in number or in their ids, or an id stands twice.
    """
    if all(id_field in row.fields for row in (*rows, *references)):
        by_id, wanted = _by_id(rows, id_field), _by_id(references, id_field)
        for row_id, row in wanted.items():
            if row_id not in by_id:
                raise UserError(f"{path}: has no prediction for id `{row_id}` of {row.place}")
        for row_id, row in by_id.items():
            if row_id not in wanted:
                raise UserError(f"{row.place}: id `{row_id}` has no reference; remove the row")
        return [by_id[row_id] for row_id in wanted]
    if len(rows) != len(references):
        raise UserError(
            f"{path}: {len(rows)} predictions for {len(references)} references; give one for each "
            "(an empty one counts, with 0)"
        )
    return rows


def _by_id(rows: list[Row], id_field: str) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in rows:
        row_id = str(row.fields[id_field])
        if row_id in found:
            raise UserError(f"{row.place}: id `{row_id}` stands twice; make the ids unique")
        found[row_id] = row
    return found


def _jsonl(path: Path, text: str) -> Iterator[Row]:
    lines = text.split("\n")  # not splitlines: JSON may hold U+2028 as it is
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            last = number == len(lines)
            why = "breaks off within the line" if last else f"is not JSON ({error})"
            raise UserError(f"{path}:{number}: {why}; mend or remove it") from error
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: is no JSON object; expected one a line")
        yield Row(f"{path}:{number}", record)


def _json(path: Path, text: str) -> Iterator[Row]:
    """An array of objects, as SAMSum's own files are; else an object a line."""
    if not text.lstrip().startswith("["):
        yield from _jsonl(path, text)
        return
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); mend it") from error
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise UserError(f"{path}: element {number} is no JSON object; mend it")
        yield Row(f"{path}: element {number}", record)


def _csv(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        header = next(reader)
        for cells in reader:
            if len(cells) != len(header):
                raise UserError(
                    f"{path}:{reader.line_num}: has {len(cells)} cells for the {len(header)} "
                    "columns of its first line; mend the row"
                )
            yield Row(f"{path}:{reader.line_num}", dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: is not CSV ({error}); mend it") from error
