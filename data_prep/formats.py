"""Read the rows of one file: JSON, JSONL, CSV or Parquet, plain or gzipped.

Local files are not read with `datasets`: version 4 turns the text `0012` of a CSV file into the
number 12, and does not say which row of a file is damaged.
"""

import codecs
import csv
import gzip
import io
import json
import lzma
import re
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from data_prep.errors import UserError, check_file, error_reason

# Errors of the readers and unpackers for damaged bytes; EOFError: a truncated gzip file.
DAMAGED = (lzma.LZMAError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, ValueError)
SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    **{split: split for split in SPLITS}, "training": "train", "val": "validation",
    "valid": "validation", "dev": "validation", "development": "validation", "eval": "validation",
    "evaluation": "validation", "testing": "test",
}  # fmt: skip
# as in SQuAD's {"version": ..., "data": [...]}
WRAPPERS = ("data", "rows", "examples", "items", "records", "samples", "dialogues")
# Limits of a row: 10 MB are ten books, not a dialogue, and ijson's parser takes quadratic time.
MAX_BYTES, MAX_LEVELS = 10**7, 100
MAX_UNPACKED = 10**10  # bytes of a gzipped file, unpacked on disk
NOT_A_NUMBER = "NaN, which JSON does not have; write null, or the text that is meant"
# The longer ones first: UTF-32's byte order mark starts with UTF-16's.
BYTE_ORDER_MARKS = [(codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
                    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")]  # fmt: skip


class SourceRow(NamedTuple):
    """A row of a source: its file and number, for messages, and its values by column."""

    place: str
    columns: dict[str, Any]


def read_file(path: Path, shown: str, notes: dict[str, None] | None = None) -> Iterator[SourceRow]:
    """Yield the rows of one file; remarks on its format are added to `notes`.

    Raises UserError, with `shown` as file name, if the content does not fit the file extension.
    """
    suffix = _ending(path.name)
    if suffix not in READERS:
        raise UserError(f"{shown}: unknown type; use .json, .jsonl, .csv, .parquet, .zip or .7z")
    number, remarks = 0, dict[str, None]()
    try:
        check_file(path)
        is_gzip = path.suffix == ".gz"
        with cast(IO[bytes], gzip.open(path)) if is_gzip else path.open("rb") as file:
            rows = _Rows(_as_utf8(file, remarks))
            stream = file if suffix == ".parquet" else io.BufferedReader(rows, 1 << 16)
            for row in READERS[suffix](stream, remarks):
                number += 1
                rows.left = MAX_BYTES
                if not isinstance(row, dict):
                    kinds = {list: "a list", str: "a text", type(None): "null"}
                    kind = kinds.get(type(row), type(row).__name__)
                    raise UserError(
                        f"{shown} row {number}: is {kind}, not an object with columns; "
                        'each row must be like {"dialogue": ..., "summary": ...}'
                    )
                if number == 1 and _is_table(row):
                    raise UserError(
                        f"{shown}: is a table in one object, as pandas writes it; write a list of "
                        'rows: `df.to_json(path, orient="records", lines=True)`'
                    )
                yield SourceRow(f"{shown} row {number}", row)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown}: is not UTF-8 after row {number} ({error.reason}); convert it to UTF-8"
        ) from error
    except DAMAGED + (csv.Error, RecursionError) as error:
        raise UserError(
            f"{shown}: cannot be read after row {number} ({error}); fix it or fetch it again"
        ) from error
    except OSError as error:
        raise UserError(f"{shown}: {error_reason(error)}; fix it or fetch it again") from error
    if notes is not None:
        notes.update(dict.fromkeys(f"{path.name}: {note}" for note in remarks))


class _Rows(io.RawIOBase):
    """A file with a size limit per row: `left` is how many bytes of it may still be read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, MAX_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.left = MAX_BYTES
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        piece = self.file.read(len(buffer))
        buffer[: len(piece)] = piece
        self.left -= len(piece)
        if self.left < 0:
            raise ValueError(f"a row of more than {MAX_BYTES // 10**6} MB")
        return len(piece)


def _is_table(row: dict[str, Any]) -> bool:
    """Return whether a row is a whole table: objects with the same keys, or equally long lists."""
    shapes = {tuple(v) if isinstance(v, dict) else type(v) is list and len(v) for v in row.values()}
    return len(row) > 1 and len(shapes) == 1 and shapes.isdisjoint({(), False})


def is_data(name: str) -> bool:
    """Return whether a file name has the extension of a supported format."""
    return _ending(name) in READERS


def _ending(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def _as_utf8(file: IO[bytes], notes: dict[str, None]) -> IO[bytes]:
    """Return the file after its byte order mark; UTF-16 and UTF-32 as a temporary UTF-8 file."""
    first_bytes = file.read(4)
    file.seek(3 if first_bytes.startswith(codecs.BOM_UTF8) else 0)
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if first_bytes.startswith(mark)), None)
    if not encoding:
        return file
    notes[f"is in {encoding.upper()}"] = None
    decoder = codecs.getincrementaldecoder(encoding)()
    pieces = iter(lambda: file.read(1 << 20), b"")
    return _on_disk(decoder.decode(p, final=not p).encode() for p in chain(pieces, [b""]))


def _on_disk(pieces: Iterable[bytes]) -> IO[bytes]:
    """Write the bytes to a temporary file; it is deleted when its reader is garbage-collected."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    for piece in pieces:
        file.write(piece)
        if file.tell() > MAX_UNPACKED:
            raise ValueError(f"more than {MAX_UNPACKED // 10**9} GB when it is unpacked")
    file.seek(0)
    return cast(IO[bytes], file)


# ---- JSON ----


def _read_json(file: IO[bytes], notes: dict[str, None]) -> Iterator[Any]:
    """Read an array of rows, arrays under keys such as `data` or `train`, or objects in sequence.

    All of these may be in a `.json` or `.jsonl` file. ijson keeps one row in memory, `json` all.
    """
    import ijson

    start = file.tell()
    # a whole corpus may be one line; of a long line only the first character is used
    pieces = (piece for piece in iter(lambda: file.readline(1 << 20), b"") if piece.strip())
    lines = (p.strip() if p[-1:] == b"\n" or len(p) < 1 << 20 else p.strip()[:1] for p in pieces)
    first, second = next(lines, b""), next(lines, b"")
    file.seek(start)
    try:
        prefixes = {"item"}  # the rows' prefixes, as ijson calls them
        if first.startswith(b"{"):
            prefixes = {""} if first.endswith(b"}") and second else _row_prefixes(file)
            file.seek(start)
            if prefixes == {""} and first.endswith(b"}"):
                yield from _read_lines(file)
                return
            if wrapped := sorted(prefix.removesuffix(".item") for prefix in prefixes - {""}):
                notes[f"rows are under {', '.join(f'`{key}`' for key in wrapped)}"] = None
        yield from _rows_at(prefixes, _events(file, multiple_values=prefixes == {""}))
    except ijson.JSONError as error:
        message = error.args[0] if error.args else ""  # ijson's C parser gives bytes
        message = message.decode("utf-8", "replace") if isinstance(message, bytes) else str(message)
        reason = message.split("\n")[0]
        if "UTF" in reason.upper():
            raise UnicodeDecodeError("utf-8", b"", 0, 1, reason) from error
        if re.search(r"\b(?:NaN|Infinity)\b", message):
            reason = NOT_A_NUMBER
        raise ValueError(f"invalid JSON: {reason}") from error


def _read_jsonl(file: IO[bytes], notes: dict[str, None]) -> Iterator[Any]:
    if file.read(1):  # an empty file has no row
        file.seek(-1, io.SEEK_CUR)
        yield from _read_json(file, notes)


def _row_prefixes(file: IO[bytes]) -> set[str]:
    """Return the prefixes of an object's rows: arrays under known keys, or the object itself."""
    prefixes = set()
    for prefix, event, _ in _events(file, multiple_values=True):
        if event == "start_map" and re.fullmatch(_ROW_PREFIX, prefix.lower()):
            prefixes.add(prefix)
        if prefix == "" and event == "end_map":
            break
    return prefixes or {""}


_ROW_PREFIX = rf"(?:(?:{'|'.join(WRAPPERS)})\.)?(?:{'|'.join((*WRAPPERS, *SPLIT_NAMES))})\.item"


def _events(file: IO[bytes], multiple_values: bool) -> Iterator[tuple[str, str, Any]]:
    """Yield ijson's events with their prefix; raises ValueError if they are nested too deeply."""
    import ijson

    def bounded() -> Iterator[tuple[str, Any]]:
        level, rows = 0, cast(Any, file).raw
        for event, value in ijson.basic_parse(
            file, use_float=True, multiple_values=multiple_values
        ):
            level += event.startswith("start_") - event.startswith("end_")
            if level > MAX_LEVELS:
                raise ValueError(f"values nested more than {MAX_LEVELS} deep")
            if level <= 3:  # the deepest rows are in an array under a split's name under `data`
                rows.left = MAX_BYTES
            yield event, value

    yield from ijson.parse(bounded())


def _rows_at(prefixes: set[str], events: Iterable[tuple[str, str, Any]]) -> Iterator[Any]:
    """Yield the values at these prefixes, one at a time; `ijson.items` would hide repeated keys.

    Those in an array under a split's name get a column `split`.
    """
    from ijson.common import ObjectBuilder

    builder: Any = None
    row_prefix, keys = "", set[str]()
    for prefix, event, value in events:
        if builder is None:
            if prefix not in prefixes:
                continue
            builder, row_prefix, keys = ObjectBuilder(), prefix, set()
        if event == "map_key" and prefix == row_prefix:
            if value in keys:
                raise ValueError(f"two columns are named `{value}`")
            keys.add(value)
        builder.event(event, value)
        if prefix == row_prefix and event not in ("start_map", "start_array", "map_key"):
            key, row = row_prefix.removesuffix(".item").split(".")[-1], builder.value
            in_split = key.lower() in SPLIT_NAMES and isinstance(row, dict)
            yield {"split": key, **row} if in_split else row
            builder = None


def _read_lines(file: IO[bytes]) -> Iterator[Any]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield json.loads(
                    line.decode("utf-8"),
                    object_pairs_hook=_no_repeated_key,
                    parse_constant=_no_constant,
                )
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error


def _no_constant(name: str) -> None:
    raise ValueError(NOT_A_NUMBER)


def _no_repeated_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raises ValueError if a key occurs twice, since the last would win."""
    if len(result := dict(pairs)) < len(pairs):
        raise ValueError(f"two columns are named `{_repeated(name for name, _ in pairs)}`")
    return result


def _repeated(names: Iterable[str]) -> str:
    return next(name for name, times in Counter(names).items() if times > 1)


# ---- CSV and Parquet ----


def _read_csv(file: IO[bytes], notes: dict[str, None]) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(MAX_BYTES)  # Python's limit of 128 KiB is less than a long dialogue
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    start = text.tell()
    header = text.readline()
    if match := re.fullmatch(r"sep=(.)\s*", header):  # Excel's own line, before the header
        delimiter = match[1]
    else:
        # Excel writes semicolons in locales with a decimal comma; the header shows which it is
        delimiter = max(",;\t|", key=re.sub('"[^"]*"', "", header).count)  # the first of a tie
        text.seek(start)
    if delimiter != ",":
        notes[f"columns are divided by {delimiter!r}"] = None
    reader = csv.DictReader(text, strict=True, delimiter=delimiter)
    names = [name.strip() for name in reader.fieldnames or [] if name]  # Excel adds empty ones
    if len(names) > len(set(names)):
        raise ValueError(f"two columns are named `{_repeated(names)}`")
    for row in reader:
        if None in row or None in row.values():
            raise ValueError("a row with more or fewer fields than the header")
        yield row


def _read_parquet(file: IO[bytes], notes: dict[str, None]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    if isinstance(file, gzip.GzipFile):  # Parquet is read from its end: unpack to disk, not memory
        file = _on_disk(iter(lambda: file.read(1 << 20), b""))
    table = pyarrow.parquet.ParquetFile(file)
    if len(names := table.schema_arrow.names) > len(set(names)):
        raise ValueError(f"two columns are named `{_repeated(names)}`")
    for batch in table.iter_batches(batch_size=1000):
        yield from batch.to_pylist()


Reader = Callable[[IO[bytes], dict[str, None]], Iterator[Any]]
READERS: dict[str, Reader] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".jsonlines": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
