"""Score anybody's outputs: `python -m eval.score --predictions FILE... --references FILE`.

JSONL, CSV or plain text; needs no model. Several prediction files are compared by paired tests.
"""

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.errors import UserError, run_cli, whole_file
from eval import signature
from eval.analysis import Analysis, Settings, analyse
from eval.baselines import Corpus, System, default_pairs, with_baselines
from eval.predictions import recorded_key
from eval.report import comparison_table, table


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


def main() -> None:
    """Read, check that the results may be compared, score, print; optionally write JSON."""
    args = _arguments()
    if args.resamples < 100:
        raise UserError(f"--resamples: {args.resamples} are too few for an interval; use 1000")
    fields = Fields(args.prediction_field, args.reference_field, args.dialogue_field, args.id_field)
    systems, corpus = load(_named(args.predictions), args.references, fields, args.force)
    everything = with_baselines(systems, corpus)
    settings = Settings(args.resamples, workers=args.workers)
    result = analyse(everything, corpus, settings, default_pairs(everything))
    if args.output:
        with whole_file(args.output) as file:
            file.write(json.dumps(result.figures, indent=2, ensure_ascii=False) + "\n")
    _print(result)


def load(
    files: dict[str, Path], references: Path | None, fields: Fields, force: bool = False
) -> tuple[dict[str, System], Corpus]:
    """Systems by name, and what they are scored on; raises UserError where that cannot be.

    Without `references` each file brings its own, and they must agree unless `force` is set; the
    first file's are then used.
    """
    rows = {name: read_records(path, fields.prediction) for name, path in files.items()}
    first = next(iter(files))
    target = read_records(references, fields.reference) if references else rows[first]
    systems: dict[str, System] = {}
    compared: dict[str, signature.Fields] = {}
    for name, path in files.items():
        aligned = align(rows[name], target, fields.id, path)
        key = recorded_key(path)
        known = signature.generation_fields(key, packages=False) if key else {}
        own = aligned if references is None else target
        compared[name] = signature.scoring_fields([row.text(fields.reference) for row in own])
        compared[name] |= known
        systems[name] = _system(aligned, fields, known)
        differ = signature.differences(compared[first], compared[name])
        if differ and not force:
            raise UserError(
                f"{files[first]} and {path} are not to be compared: {'; '.join(differ)}; make them "
                "alike, or compare all the same with --force"
            )
    texts = [row.text(fields.reference) for row in target]
    source = target if fields.dialogue in target[0].fields else rows[first]
    if source is not target:
        source = align(source, target, fields.id, files[first])
    dialogues = None
    if all(fields.dialogue in row.fields for row in source):
        dialogues = [row.text(fields.dialogue) for row in source]
    return systems, Corpus(texts, dialogues)


def _system(rows: list[Row], fields: Fields, known: dict[str, str]) -> System:
    stopped = [row.fields.get("stopped") for row in rows]
    tokens = [row.fields.get("tokens") for row in rows]
    return System(
        [row.text(fields.prediction) for row in rows],
        tokens=tokens if all(type(n) is int for n in tokens) else None,  # type: ignore[arg-type]
        stopped=stopped if all(type(s) is bool for s in stopped) else None,  # type: ignore[arg-type]
        fields=known,
    )


def _named(values: list[str]) -> dict[str, Path]:
    """`name=path` or a path, whose own name is then used: `predictions.base.jsonl` is `base`."""
    found: dict[str, Path] = {}
    for value in values:
        name, has_name, path = value.partition("=")
        if not has_name or Path(value).is_file():  # a file may have `=` in its own name
            path = value
            name = Path(path).stem.removeprefix("predictions.")
        if name in found:
            name = f"{Path(path).parent.name}/{name}"
        if name in found or not name:
            raise UserError(f"--predictions: two systems named {name}; write NAME={path}")
        found[name] = Path(path)
    return found


def _print(result: Analysis) -> None:
    print(table(result.figures))
    if result.figures["comparisons"]:
        print(comparison_table(result.figures))
    for name, system in result.figures["systems"].items():
        if system["kind"] == "model":
            print(f"{name}: {system['signature']}")


def _arguments() -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m eval.score",
        description="ROUGE of anybody's outputs, with intervals, paired tests and a signature.",
    )
    add = parser.add_argument
    add("--predictions", nargs="+", required=True, metavar="[NAME=]FILE", help="a file a system")
    add("--references", type=Path, help="default: the references in the prediction files")
    add("--prediction-field", default="prediction")
    add("--reference-field", default="reference")
    add("--dialogue-field", default="dialogue")
    add("--id-field", default="id")
    add("--resamples", type=int, default=1000, help="of the bootstrap (default 1000)")
    add("--workers", type=int, help="processes that score (default: the cores)")
    add("--force", action="store_true", help="compare in spite of different signatures")
    add("--output", type=Path, help="write the figures there as JSON")
    return parser.parse_args()


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


if __name__ == "__main__":
    run_cli(main)
