"""Read a corpus, row by row, from the hub, an archive, a folder or a single file.

Each split is a file, or several, in JSON, JSONL, CSV or Parquet; archives are `.zip` and `.7z`.
We read local files ourselves: `datasets` 4 turns the text `0012` of a CSV file into the number 12,
and does not say which row of a file is damaged.
"""

import csv
import gzip
import hashlib
import io
import json
import lzma
import re
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from data_prep.errors import UserError

# What the readers and unpackers raise where bytes are damaged; EOFError: gzip that is cut short.
DAMAGED = (lzma.LZMAError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, ValueError)

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}
SHARD = r"-\d+(-of-\d+)?"  # train-00000-of-00002.parquet, as the hub names the parts of a split


class SourceRow(NamedTuple):
    """A row of a source: file and number, for messages, and its values by column."""

    place: str
    columns: dict[str, Any]


class Source:
    """A corpus with the splits train, validation and test; use it in a `with` block."""

    def __init__(self, source: str, revision: str | None = None):
        """`source`: a path, or a hub id read at `revision`."""
        self.source, self.revision = source, revision
        self.file_hashes: dict[str, str] = {}
        self.commit: str | None = None  # of a hub's data set, where the hub's client tells it
        self._hub: dict[str, Any] = {}  # the hub's data set of each split
        self._files: dict[str, list[Path]] = {}  # of each split
        self._one_file: Path | None = None  # which holds all splits
        self._root = Path(source)  # shown as `source`: the same, or the folder of what is unpacked
        self._cleanup = ExitStack()

    def __enter__(self) -> "Source":
        """Find the splits; archives are unpacked into a temporary folder."""
        path = self._root
        with ExitStack() as undo:
            undo.callback(self._cleanup.close)
            if path.exists():
                try:
                    self._find_files(path)
                except OSError as error:
                    raise UserError(
                        f"{error.filename or path}: cannot be read ({error.strerror or error}); "
                        "check the path and its permissions"
                    ) from error
            elif (
                re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", self.source)
                and not is_data(path.name)
                and path.suffix not in (".zip", ".7z")
            ):
                self._load_from_hub()
            else:
                raise UserError(
                    f"summarization.source: {self.source}: not found; give a hub id (`owner/name`),"
                    " a folder, or a .7z, .zip, .json, .jsonl, .csv or .parquet file that exists"
                )
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was unpacked."""
        self._cleanup.close()

    def rows(self, split: str) -> Iterator[SourceRow]:
        """Yield the rows of a split; raises UserError where the source has no such split."""
        if self._one_file or split in self._files:
            for file in [self._one_file] if self._one_file else self._files[split]:
                shown = Path(self.source, file.relative_to(self._root))
                for row in read_file(file, str(shown)):
                    if not self._one_file or _split_of(row) == split:
                        yield row
        elif split in self._hub:
            for number, row in enumerate(self._hub[split], 1):
                yield SourceRow(f"{self.source} {split} row {number}", row)
        else:
            raise UserError(
                f"{self.source}: has no split `{split}` (found: "
                f"{', '.join(self._files or self._hub) or 'none'}); name its file {split}.json, "
                ".jsonl, .csv or .parquet"
            )

    def _find_files(self, path: Path) -> None:
        if path.is_dir():
            self._files = _files_by_split(path, path)
            for file in (file for files in self._files.values() for file in files):
                self.file_hashes[str(file.relative_to(path))] = sha256_of(file)
            return
        self.file_hashes[path.name] = sha256_of(path)
        if path.suffix not in (".7z", ".zip"):
            self._one_file = path
            return
        folder = self._root = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory()))
        _unpack(path, folder)
        self._files = _files_by_split(folder, path)
        files = [file for file in folder.rglob("*") if file.is_file() and is_data(file.name)]
        if len(files) == 1 and not self._files:
            self._one_file = files[0]

    def _load_from_hub(self) -> None:
        from datasets import load_dataset

        try:
            corpus = load_dataset(self.source, revision=self.revision)
        except Exception as error:  # the hub client raises a dozen unrelated types
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"summarization.source: {self.source}: not available on the hub, and no such path "
                f"({reason}); set `source` to a folder, archive or file of the corpus on this "
                "machine, or check the network, HF_HUB_OFFLINE and `hf auth login`"
            ) from error
        self._hub = {SPLIT_NAMES.get(split, split): rows for split, rows in corpus.items()}
        # the only place where `datasets` keeps the commit: addresses such as hf://…@<commit>/…
        files = " ".join(next(iter(corpus.values())).info.download_checksums or {})
        commit = re.search(r"@([0-9a-f]{40})/", files)
        self.commit = commit[1] if commit else None


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    import py7zr

    try:
        opener: Any = py7zr.SevenZipFile if archive.suffix == ".7z" else zipfile.ZipFile
        with opener(archive) as packed:
            # zipfile would write such a member elsewhere in the folder, without a word
            for name in packed.namelist():
                posix = PurePosixPath(name.replace("\\", "/"))
                if posix.is_absolute() or ".." in posix.parts or re.match(r"[A-Za-z]:", name):
                    raise UserError(
                        f"{archive}: member `{name}` points outside the archive's folder; "
                        "refused, fetch the archive from a source that you trust"
                    )
            packed.extractall(folder)
    except DAMAGED + (py7zr.exceptions.ArchiveError, NotImplementedError) as error:
        raise UserError(f"{archive}: is damaged ({error}); fetch it again") from error
    except (py7zr.exceptions.PasswordRequired, RuntimeError) as error:  # zipfile's own for it
        raise UserError(f"{archive}: needs a password; unpack it and name the folder") from error
    except OSError as error:
        raise UserError(
            f"{archive}: cannot be unpacked into {folder} ({error.strerror or error}); free some "
            "space, or set TMPDIR to a folder that has it"
        ) from error


def _files_by_split(folder: Path, shown: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and is_data(f.name)):
        stem = re.sub(f"{SHARD}$", "", file.name.split(".")[0].lower())
        split = SPLIT_NAMES.get(stem, stem)
        if split in SPLITS:
            found.setdefault(split, []).append(file)
    for split, files in found.items():
        if len(files) > 1 and not all(re.search(rf"{SHARD}\.", f.name) for f in files):
            names = " and ".join(str(f.relative_to(folder)) for f in files)
            raise UserError(f"{shown}: {names} both claim to be `{split}`; keep one")
    return found


def _split_of(row: SourceRow) -> str:
    """A row's `split` column, else by a hash of the row: 10 % each to test and validation."""
    if "split" not in row.columns:
        text = json.dumps(row.columns, sort_keys=True, default=str)
        first = hashlib.sha256(text.encode()).digest()[0]  # 26 of its 256 values are 10 %
        return "test" if first < 26 else "validation" if first < 52 else "train"
    split = str(row.columns["split"])
    if (split := SPLIT_NAMES.get(split, split)) not in SPLITS:
        raise UserError(f"{row.place}: `split` is {split!r}; use {', '.join(SPLITS)}")
    return split


def read_file(path: Path, shown: str) -> Iterator[SourceRow]:
    """Yield the rows of one JSON, JSONL, CSV or Parquet file, plain or gzipped.

    Raises UserError that names `shown` where the file is not what its ending says.
    """
    suffix = _ending(path.name)
    if suffix not in READERS:
        raise UserError(f"{shown}: unknown ending; use .json, .jsonl, .csv, .parquet, .zip or .7z")
    number = 0
    try:
        packed = path.suffix == ".gz"
        with cast(IO[bytes], gzip.open(path)) if packed else path.open("rb") as file:
            for row in READERS[suffix](file):
                number += 1
                if not isinstance(row, dict):
                    kinds = {list: "a list", str: "a text", type(None): "null"}
                    kind = kinds.get(type(row), type(row).__name__)
                    raise UserError(
                        f"{shown} row {number}: is {kind}, not an object with columns; "
                        'each row must be like {"dialogue": ..., "summary": ...}'
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
        raise UserError(
            f"{shown}: cannot be read ({error.strerror or error}); fix it or fetch it again"
        ) from error


def is_data(name: str) -> bool:
    """Whether a file of this name is in one of the formats."""
    return _ending(name) in READERS


def _ending(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def _read_json(file: IO[bytes]) -> Iterator[Any]:
    """A list of rows; ijson keeps one of them in memory, `json` would keep the whole file."""
    import ijson

    first = file.read(1)
    while first.isspace() or first in (b"\xef", b"\xbb", b"\xbf"):
        first = file.read(1)
    file.seek(0)
    if first == b"{":  # one object a line, whatever the ending says
        yield from _read_jsonl(file)
        return
    try:
        yield from _items(ijson.basic_parse(_without_bom(file), use_float=True))
    except ijson.JSONError as error:
        said = error.args[0] if error.args else ""  # bytes from ijson's parser in C
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
                yield json.loads(line.decode("utf-8"), object_pairs_hook=_no_repeated_key)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error


def _items(events: Iterable[tuple[str, Any]]) -> Iterator[Any]:
    """The items of an array, one in memory at a time; `ijson.items` hides a repeated key."""
    from ijson.common import ObjectBuilder

    builder, depth, keys = ObjectBuilder(), 0, set()
    for event, value in events:
        if depth == 0 or (depth == 1 and event == "end_array"):
            depth += event == "start_array"
            continue
        if event == "map_key" and depth == 2:
            if value in keys:
                raise ValueError(f"two columns are named `{value}`")
            keys.add(value)
        builder.event(event, value)
        depth += event.startswith("start_")
        depth -= event.startswith("end_")
        if depth == 1:
            yield builder.value
            builder, keys = ObjectBuilder(), set()


def _no_repeated_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; raises ValueError where a key occurs twice: the last would win."""
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError(f"two columns are named `{_repeated(name for name, _ in pairs)}`")
    return found


def _repeated(names: Iterable[str]) -> str:
    return next(name for name, times in Counter(names).items() if times > 1)


def _read_csv(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(1 << 30)  # Python's limit of 128 KiB is less than a long dialogue
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    header = text.readline()
    # Excel writes semicolons where the comma is the decimal point; the header tells
    delimiter = max(",;\t|", key=re.sub('"[^"]*"', "", header).count)  # of equals the first
    text.seek(0)
    reader = csv.DictReader(text, strict=True, delimiter=delimiter)
    if len(names := reader.fieldnames or []) > len(set(names)):
        raise ValueError(f"two columns are named `{_repeated(names)}`")
    for row in reader:
        if None in row or None in row.values():
            raise ValueError("a row with more or fewer fields than the header")
        yield row


def _read_parquet(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    if isinstance(file, gzip.GzipFile):  # Parquet is read from its end: unpack to disk, not memory
        with tempfile.TemporaryFile() as plain:
            shutil.copyfileobj(file, plain)
            yield from _read_parquet(plain)
        return
    table = pyarrow.parquet.ParquetFile(file)
    if len(names := table.schema_arrow.names) > len(set(names)):
        raise ValueError(f"two columns are named `{_repeated(names)}`")
    for batch in table.iter_batches(batch_size=1000):
        yield from batch.to_pylist()


READERS: dict[str, Callable[[IO[bytes]], Iterator[Any]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".jsonlines": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
