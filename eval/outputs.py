"""Outputs of any system: reading prediction and reference files, and putting them in one order.

Use: `load({"mine": Path("mine.jsonl")}, Path("references.csv"), FieldNames())`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.sources import is_data, read_file
from eval import signature
from eval.baselines import Corpus, System
from eval.predictions import true_record


@dataclass
class FieldNames:
    """Names of the fields (JSON, Parquet) or columns (CSV); a plain-text file has none."""

    prediction: str = "prediction"
    reference: str = "reference"
    dialogue: str = "dialogue"
    id: str = "id"


@dataclass
class Record:
    """One record of a file: its fields, and its place for messages."""

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
            raise UserError(f"{self.place}: `{field}` is {value!r}, not text; correct the record")
        return value


def named_files(values: list[str]) -> dict[str, Path]:
    """Paths by name, of `NAME=PATH` or of a path: `predictions.base.jsonl` is `base` then."""
    found: dict[str, Path] = {}
    for value in values:
        name, has_name, path = value.partition("=")
        if not has_name or Path(value).exists():  # a file may have `=` in its own name
            path = value
            whole = Path(path).is_dir()  # `lora.r8` is a folder's name, `.jsonl` a file's ending
            name = Path(path).name if whole else Path(path).stem.removeprefix("predictions.")
        if name in found:
            name = f"{Path(path).parent.name}/{name}"
        if name in found or not name:
            raise UserError(f"{path}: another one is named {name} too; write NAME={path}")
        found[name] = Path(path)
    return found


def load(
    files: dict[str, Path], references: Path | None, names: FieldNames, force: bool = False
) -> tuple[dict[str, System], Corpus]:
    """Systems by name, and what they are scored on; raises UserError where that cannot be.

    Without `references` each file brings its own, and they must agree unless `force` is set; the
    first file's are then used.
    """
    records = {name: read_records(path, names.prediction) for name, path in files.items()}
    first = next(iter(files))
    target = read_records(references, names.reference) if references else records[first]
    systems: dict[str, System] = {}
    compared: dict[str, str] = {}  # what the signatures of all files must share
    for name, path in files.items():
        aligned = align(records[name], target, names.id, path)
        record = true_record(path)
        known = signature.generation_fields(record.key, record.versions) if record else {}
        systems[name] = _system(aligned, names, known)
        own = target if references else aligned
        fields = signature.scoring_fields([record.text(names.reference) for record in own]) | known
        compared = compared or fields
        if (differ := signature.differences(compared, fields)) and not force:
            raise UserError(
                f"{files[first]} and {path} cannot be compared: {'; '.join(differ)}; use the same "
                "settings for both, or compare them with --force"
            )
        if both := signature.engines(compared, fields):
            print(
                f"note: {files[first]} is by {both[0]} and {path} by {both[1]}: under the same "
                "settings two engines differ by rounding alone"
            )
    if names.dialogue in target[0].fields:
        source = target
    else:
        source = align(records[first], target, names.id, files[first])
    known_to_all = all(names.dialogue in record.fields for record in source)
    dialogues = [record.text(names.dialogue) for record in source] if known_to_all else None
    return systems, Corpus([record.text(names.reference) for record in target], dialogues)


def _system(records: list[Record], names: FieldNames, known: dict[str, str]) -> System:
    def column(field: str, kind: type) -> list[Any] | None:
        values = [record.fields.get(field) for record in records]
        return values if all(type(value) is kind for value in values) else None

    return System(
        [record.text(names.prediction) for record in records],
        tokens=column("tokens", int),
        stopped=column("stopped", bool),
        fields=known,
    )


def read_records(path: Path, text_field: str) -> list[Record]:
    """Every record of `path`; a line of plain text becomes the field `text_field`.

    Raises UserError where the file is missing, is empty, is not UTF-8 or breaks off in a record.
    """
    if is_data(path.name):
        records = [Record(place, fields) for place, fields in read_file(path, str(path))]
    else:
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or f"is not UTF-8: {error}"
            raise UserError(f"{path}: {reason}; check the path and the encoding") from error
        lines = text.removesuffix("\n").split("\n") if text.strip() else []
        records = [Record(f"{path}:{n}", {text_field: line}) for n, line in enumerate(lines, 1)]
    if not records:
        raise UserError(f"{path}: is empty; expected a record a line")
    return records


def align(
    records: list[Record], references: list[Record], id_field: str, path: Path
) -> list[Record]:
    """`records` in the order of `references`, by id where both have one, else by their order.

    Raises UserError where the two differ in number or in their ids, or an id occurs twice.
    """
    if all(id_field in record.fields for record in (*records, *references)):
        found, wanted = by_id(records, id_field), by_id(references, id_field)
        if lacking := [name for name in wanted if name not in found]:
            raise UserError(f"{path}: has no prediction for id `{lacking[0]}`; add it")
        if extra := [name for name in found if name not in wanted]:
            raise UserError(f"{path}: id `{extra[0]}` has no reference; remove its prediction")
        return [found[name] for name in wanted]
    if len(records) != len(references):
        raise UserError(
            f"{path}: {len(records)} predictions for {len(references)} references; give one for "
            "each (an empty one counts, with 0)"
        )
    return records


def by_id(records: list[Record], id_field: str) -> dict[str, Record]:
    """Records by their id, as text; raises UserError where one has none, or two have the same."""
    found: dict[str, Record] = {}
    for record in records:
        if id_field not in record.fields:
            raise UserError(f"{record.place}: has no field `{id_field}`; give every record an id")
        if record is not found.setdefault(name := str(record.fields[id_field]), record):
            raise UserError(f"{record.place}: id `{name}` occurs twice; make the ids unique")
    return found
