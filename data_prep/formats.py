"""Read the rows of one file: JSON, JSONL, CSV or Parquet, each also as `.gz`.

JSON is an array of objects, or one object a line. No more than a few rows are held in memory.
"""

import csv
import gzip
import io
import json
import lzma
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from data_prep.errors import UserError

DAMAGED = (lzma.LZMAError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, ValueError)
Row = dict[str, Any]


def read_file(path: Path, shown: str) -> Iterator[tuple[str, Row]]:
    """Yield `(place, row)` of one JSON, JSONL, CSV or Parquet file, plain or gzipped.

    Raises UserError that names `shown` where the file is not what its ending says.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix
    readers = {
        ".json": _read_json,
        ".jsonl": _read_jsonl,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    if suffix not in readers:
        raise UserError(f"{shown}: unknown ending; use .json, .jsonl, .csv, .parquet, .zip or .7z")
    number = 0
    try:
        with _open(path) as file:
            for row in readers[suffix](file):
                number += 1
                if not isinstance(row, dict):
                    raise UserError(
                        f"{shown} row {number}: is {_kind(row)}, not an object with columns; "
                        'each row must be like {"dialogue": ..., "summary": ...}'
                    )
                yield f"{shown} row {number}", row
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown}: is not UTF-8 after row {number} ({error.reason}); convert it to UTF-8"
        ) from error
    except DAMAGED + (csv.Error, RecursionError) as error:
        raise UserError(
            f"{shown}: cannot be read after row {number} ({error}); mend it or fetch it again"
        ) from error
    except OSError as error:
        raise UserError(
            f"{shown}: cannot be read ({error.strerror or error}); mend it or fetch it again"
        ) from error


def is_data(name: str) -> bool:
    """Whether a file of this name is in one of the formats."""
    return Path(name.removesuffix(".gz")).suffix in (".json", ".jsonl", ".csv", ".parquet")


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(
        type(value), type(value).__name__
    )


def _read_json(file: IO[bytes]) -> Iterator[Any]:
    import ijson

    first = file.read(1)
    while first.isspace() or first in (b"\xef", b"\xbb", b"\xbf"):
        first = file.read(1)
    file.seek(0)
    if first == b"{":  # one object a line, whatever the ending says
        yield from _read_jsonl(file)
        return
    try:
        yield from ijson.items(_without_bom(file), "item", use_float=True)
    except ijson.JSONError as error:
        said = error.args[0] if error.args else ""  # bytes where the C parser said it
        said = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        reason = said.split("\n")[0]
        if "UTF" in reason.upper():
            raise UnicodeDecodeError("utf-8", b"", 0, 1, reason) from error
        raise ValueError(f"invalid JSON: {reason}") from error


def _without_bom(file: IO[bytes]) -> IO[bytes]:
    if file.read(3) != b"\xef\xbb\xbf":
        file.seek(0)
    return file


def _read_jsonl(file: IO[bytes]) -> Iterator[Any]:
    for number, line in enumerate(_without_bom(file), 1):
        if line.strip():
            try:
                yield json.loads(line.decode("utf-8"))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error


def _read_csv(file: IO[bytes]) -> Iterator[Row]:
    csv.field_size_limit(1 << 30)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    for row in csv.DictReader(text, strict=True):
        if None in row or None in row.values():
            raise ValueError("a row with more or fewer fields than the header")
        yield row


def _read_parquet(file: IO[bytes]) -> Iterator[Row]:
    import pyarrow.parquet

    if isinstance(file, gzip.GzipFile):  # Parquet is read from its end: unpack to disk, not memory
        with tempfile.TemporaryFile() as plain:
            shutil.copyfileobj(file, plain)
            yield from _read_parquet(plain)
        return
    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1000):
        yield from batch.to_pylist()
