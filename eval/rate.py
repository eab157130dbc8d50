"""Human ratings: write a blind sheet of summaries for a spreadsheet, and read the filled sheets.

`python -m eval.rate sheet results/<recipe>` writes `ratings.csv`, which raters fill in, and
`ratings.key.json`, which says which system wrote which summary. `python -m eval.rate read SHEET...`
reads the filled sheets, one per rater; `eval.ratings` evaluates them.
"""

import argparse
import csv
import hashlib
import io
import random
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from data_prep.errors import (
    UserError,
    atomic_file,
    atomic_files,
    check_outputs,
    reading,
    run_cli,
)
from data_prep.options import Help, Options
from eval.ratings import Rating, evaluate, tables

# A spreadsheet treats a cell that begins with one of these as a formula, full-width forms included
# (OWASP, "CSV Injection"). The apostrophe is listed because reading removes it.
FORMULAS = ("=", "+", "-", "@", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")
NUMBER_OR_DATE = re.compile(r"[\d.,:/eE %-]+")  # 0012 would become 12, and 1-2 a date
SAFE_NUMBER = re.compile(r"0|[1-9]\d{0,14}")  # Excel keeps 15 digits
EXCEL_CELL = 32_767  # characters ("Excel specifications and limits"); it cuts longer ones
YES_NO = {"y": True, "yes": True, "n": False, "no": False}


class KeyRow(BaseModel):
    """A row of the sheet: the systems of its summaries, left to right, and its `_hashes`."""

    id: str
    systems: list[str]
    hashes: list[str]


class Key(BaseModel):
    """`ratings.key.json`: each system with the hash of its predictions file, and the rows."""

    systems: dict[str, str]
    seed: int
    rows: list[KeyRow]


def main() -> None:
    """Write a sheet and its key, or read filled sheets and print the results."""
    args = _arguments()  # before the slow imports, so that --help is fast
    if args.command == "sheet":
        write_sheet(args)
        return
    from eval.score import named

    sheets = named(args.sheets)
    if len({path.resolve() for path in sheets.values()}) < len(sheets):
        raise UserError("read: a sheet is given twice; give each rater's own file once")
    first = next(iter(sheets.values()))
    own = first.with_suffix(".key.json")
    keys = [p for p in first.parent.glob("*.key.json") if not p.name.startswith(".")]
    if not args.key and own not in keys and len(keys) != 1:
        raise UserError(f"{first}: no {own.name} next to it; give the key of the sheet with --key")
    key_path = args.key or (own if own in keys else keys[0])
    with reading(key_path, "give the right key with --key"):
        key = Key.model_validate_json(key_path.read_bytes())
    check_outputs(*filter(None, [args.output]), inputs=[*sheets.values(), key_path])
    result = evaluate({n: read_sheet(sheet, key) for n, sheet in sheets.items()}, key.systems)
    if args.output:
        with atomic_file(args.output) as file:
            file.write(result.model_dump_json(indent=2) + "\n")
    print(tables(result))


# ---- the sheet ----


def write_sheet(args: argparse.Namespace) -> None:
    """Draw dialogues, put their summaries in a blind order, and write the sheet and its key.

    Raises UserError if there are fewer than two systems, if they have no dialogue in common or
    disagree on its text, or if a sheet or key would be overwritten.
    """
    from data_prep.sources import sha256_of
    from eval.compare import find_runs
    from eval.outputs import FieldNames, Record, read_records
    from eval.predictions import key_file

    key_path = args.output.with_suffix(".key.json")
    for path in (args.output, key_path):  # without its key, a rater's sheet is useless
        if path.exists() and not args.overwrite:
            raise UserError(f"{path}: exists; choose another --output, or use --overwrite")
    if args.rows < 1:
        raise UserError(f"--rows: {args.rows} is not a number of dialogues; use 1 or more")
    runs = find_runs(args.runs)
    files = {run.name: run.file for run in runs}
    if len(runs) == 1 and (
        Path(args.runs[0]).is_dir() or args.runs[0].endswith(".yml")
    ):  # a folder or recipe: its base too
        paths = [runs[0].file.with_name(f"predictions.{name}.jsonl") for name in ("base", "tuned")]
        files = {path.stem.removeprefix("predictions."): path for path in paths if path.is_file()}
    if len(files) < 2:
        raise UserError("sheet: give a results folder, or the predictions of two or more systems")
    check_outputs(key_path, args.output, inputs=[*files.values(), *map(key_file, files.values())])

    def text(record: Record, kind: str) -> str:
        # JSON can contain half a surrogate pair, which cannot be written
        joined = "\n".join(record.texts(kind)).strip()
        return joined.encode("utf-8", "replace").decode() or "(empty)"

    # `rows`: per id that all systems have, the texts before the summaries, and the summaries.
    by_system: dict[str, dict[str, Record]] = {system: {} for system in files}
    for system, path in files.items():
        for record in read_records(path, "prediction", FieldNames()):
            if not record.id or record.id in by_system[system]:
                problem = f"id `{record.id}` occurs twice" if record.id else "has no id"
                raise UserError(f"{record.place}: {problem}; give every record its own id")
            by_system[system][record.id] = record
    rows: dict[str, tuple[list[str], dict[str, str]]] = {}
    for name in next(iter(by_system.values())):
        if not all(name in by_id for by_id in by_system.values()):
            continue
        records = {system: by_id[name] for system, by_id in by_system.items()}
        # another program's file may have only ids and predictions
        with_dialogue = [r for r in records.values() if r.get("dialogue")] or list(records.values())
        texts = [text(with_dialogue[0], "dialogue")]
        for record in with_dialogue:
            if text(record, "dialogue").split() != texts[0].split():
                raise UserError(
                    f"{record.place}: the dialogue of id `{name}` is different from that in "
                    f"{with_dialogue[0].place}; give predictions for the same data"
                )
        if args.reference:
            texts.append(text(next(iter(records.values())), "reference"))
        rows[name] = texts, {system: text(r, "prediction") for system, r in records.items()}
    if not rows:
        raise UserError(f"sheet: no id is in all of {', '.join(map(str, files.values()))}")

    # The rows stay in the order drawn, so that the first ones that a rater fills in are a random
    # sample too. Rotating the systems puts each in each column equally often (to within one), so
    # that no system gains from raters who prefer the first summary.
    generator = random.Random(args.seed)
    drawn = generator.sample(list(rows), min(args.rows, len(rows)))
    orders: list[list[str]] = []
    while len(orders) < len(drawn):
        order = generator.sample(list(files), len(files))
        orders += [order[n:] + order[:n] for n in range(len(order))]
    del orders[len(drawn) :]
    generator.shuffle(orders)

    numbers = [str(n + 1) for n in range(len(files))]
    titles = ["id", "dialogue", *(["reference"] if args.reference else [])]
    titles += [*(f"summary_{n}" for n in numbers), f"best ({', '.join(numbers)} or tie)"]
    titles += [*(f"faithful_{n} (y/n)" for n in numbers), "note"]
    key = Key(systems={n: sha256_of(p) for n, p in files.items()}, seed=args.seed, rows=[])
    with atomic_files(args.output.parent, key_path.name, args.output.name) as written:
        written[args.output.name].write("\ufeff")  # by this mark Excel recognises UTF-8
        sheet = csv.writer(written[args.output.name], delimiter=";" if args.semicolon else ",")
        sheet.writerow(titles)
        for name, order in zip(drawn, orders, strict=True):
            texts, summaries = rows[name]
            shown = [summaries[system] for system in order]
            cells = [as_text(cell) for cell in (name, *texts, *shown)]
            sheet.writerow(cells + [""] * (len(titles) - len(cells)))
            key.rows.append(
                KeyRow(id=name, systems=order, hashes=_hashes([name, texts[0], *shown]))
            )
        written[key_path.name].write(key.model_dump_json(indent=2) + "\n")
    print(f"{args.output}: {len(drawn)} of {len(rows)} dialogues; give each rater a copy")
    print(f"{key_path}: which system wrote which summary; do not show it to raters")
    if any(len(cell) >= EXCEL_CELL for name in drawn for cell in rows[name][0]):
        print("note: Excel cannot hold the longest of these dialogues; rate them in LibreOffice")


def as_text(text: str) -> str:
    """Put an apostrophe before formulas, numbers and dates, so that a spreadsheet keeps them."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\t", " ")  # LibreOffice 7.4 drops tabs, which joins two words
    changed = NUMBER_OR_DATE.fullmatch(text) and not SAFE_NUMBER.fullmatch(text)
    return f"'{text}" if changed or text.lstrip().startswith(FORMULAS) else text


def _hashes(cells: Sequence[str]) -> list[str]:
    """Hash a row's texts as they are, and as Excel's plain CSV writes them: `?` for an emoji.

    Both hashes ignore what spreadsheets change: the apostrophes that `as_text` adds, spaces, line
    ends and control characters.
    """
    visible = [[c for c in cell.lstrip("'") if c.isprintable() and c != " "] for cell in cells]
    text = "\n".join("".join(characters) for characters in visible)
    versions = [text.encode(codec, "replace").decode(codec) for codec in ("utf-8", "cp1252")]
    # an emoji becomes one or two `?`; joined in both, as a sheet read back may match either
    return [hashlib.sha256(re.sub(r"\?+", "?", v).encode()).hexdigest() for v in versions]


# ---- filled sheets ----


def read_sheet(path: Path, key: Key) -> dict[str, Rating]:
    """Return one rater's ratings by id, for the rows that have a rating.

    Raises UserError with the row number that a spreadsheet shows for an unknown or repeated id,
    changed texts or an invalid rating; also for a sheet without any rating.
    """
    titles, *lines = _cells(path) or [[]]
    columns = [title.strip().split(" ")[0].casefold() for title in titles]
    numbers = [str(n + 1) for n in range(len(key.systems))]
    text_columns = ["id", "dialogue", *(f"summary_{n}" for n in numbers)]
    for name in (*text_columns, "best", *(f"faithful_{n}" for n in numbers)):
        if columns.count(name) != 1:
            raise UserError(
                f"{path} row 1: {columns.count(name)} columns are named `{name}`, not one; restore "
                "it, or give the sheet's key with --key. Open and save the sheet as UTF-8"
            )
    rows = {row.id.lstrip("'").strip(): row for row in key.rows}
    ratings: dict[str, Rating] = {}
    for number, line in enumerate(lines, 2):
        if not any(cell.strip() for cell in line):
            continue  # Excel saves empty rows that were once edited
        place = f"{path} row {number}"
        cells = dict(zip(columns, line + [""] * len(columns), strict=False))
        name = cells["id"].lstrip("'").strip()
        if name not in rows:
            raise UserError(f"{place}: id `{name}` is not in the key; restore it, or use --key")
        if name in ratings:
            raise UserError(f"{place}: id `{name}` occurs twice; delete one of the rows")
        row, rating = rows[name], Rating()
        if _hashes([cells[column] for column in text_columns])[0] not in row.hashes:
            raise UserError(
                f"{place}: the dialogue or summaries of id `{name}` have changed since the key "
                "was written; restore them. Open and save the sheet as UTF-8"
            )
        # a spreadsheet may have turned 1 into 1.0
        if answer := cells["best"].strip().casefold().removesuffix(".0"):
            by_number = dict(zip(numbers, row.systems, strict=True))
            if answer in ("tie", "="):
                answer = " ".join(numbers)
            if not set(answer.split()) <= by_number.keys():
                raise UserError(f"{place}: best is `{answer}`; use {', '.join(numbers)} or tie")
            rating.best = frozenset(by_number[word] for word in answer.split())
        for n, system in zip(numbers, row.systems, strict=True):
            if answer := cells[f"faithful_{n}"].strip().casefold():
                if answer not in YES_NO:
                    raise UserError(f"{place}: faithful_{n} is `{answer}`; use y or n")
                rating.faithful[system] = YES_NO[answer]
        ratings[name] = rating
    ratings = {name: rating for name, rating in ratings.items() if rating.best or rating.faithful}
    if not ratings:
        raise UserError(f"{path}: has no rating; fill in `best` or `faithful_1` in some rows")
    return ratings


def _cells(path: Path) -> list[list[str]]:
    """Return the rows of a saved sheet: UTF-8, UTF-16 or cp1252, split by `,`, `;` or tabs."""
    with reading(path, "save it as `CSV UTF-8`"):
        data = path.read_bytes()
        if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):  # .xlsx and .ods; .xls
            raise UserError(f"{path}: is a workbook; save the sheet as `CSV UTF-8`")
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = data.decode("utf-16")
        else:
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                text = data.decode("cp1252")
        first_line = text.partition("\n")[0]
        delimiter = max(",;\t", key=first_line.count)
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def _arguments() -> argparse.Namespace:
    parser = Options(
        "eval.rate", "Write a blind sheet for people who rate summaries, and read their ratings.",
        "sheet results/smollm2_samsum --rows 30 --seed 1 --reference --semicolon",
        "sheet a=results/a b=results/b --overwrite --output ratings.csv",
        "read ratings.anna.csv ben=filled.csv --key ratings.key.json --output ratings.json",
    )  # fmt: skip
    make_parser: Any = partial(argparse.ArgumentParser, formatter_class=Help, epilog=parser.epilog)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=make_parser)
    sheet = commands.add_parser("sheet", help="write a sheet and its key")
    add = sheet.add_argument
    text = "a results folder (alone: base and tuned; else its tuned model), or a predictions file"
    add("runs", nargs="+", metavar="[NAME=]RUN", help=text)
    add("--rows", type=int, default=50, help="dialogues to draw at random")
    add("--seed", type=int, default=12345, help="seed of the draw and the order")
    add("--reference", action="store_true", help="add a column with the reference")
    text = "separate the columns by `;`, as Excel does if numbers have a decimal comma"
    add("--semicolon", action="store_true", help=text)
    add("--overwrite", action="store_true", help="replace an existing sheet and its key")
    add("--output", type=Path, default=Path("ratings.csv"), help="sheet to write")
    read = commands.add_parser("read", help="read filled sheets, one per rater")
    add = read.add_argument
    add("sheets", nargs="+", metavar="[RATER=]SHEET", help="filled sheets")
    add("--key", type=Path, help="key of the sheets (default: the one next to the first)")
    add("--output", type=Path, help="JSON file for the results (default: none)")
    parser.epilog = f"{sheet.format_usage()}{read.format_usage()}\n{parser.epilog}"
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
