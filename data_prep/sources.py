"""Read a corpus, row by row, from the hub, an archive, a folder or a single file.

Each split is a file, or several, in JSON, JSONL, CSV or Parquet; archives are `.zip` and `.7z`.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from data_prep.errors import UserError

DAMAGED = (lzma.LZMAError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, ValueError)

ENDINGS = {".json", ".jsonl", ".csv", ".parquet", ".gz", ".zip", ".7z"}
SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}


class SourceRow(NamedTuple):
    """A row of a source: file and number, for messages, and its values by column."""

    place: str
    columns: dict[str, Any]


Readers = dict[str, Callable[[], Iterator[SourceRow]]]  # by split


class Source:
    """A corpus with the splits train, validation and test; use it in a `with` block.

    `rows(split)` yields its rows.
    """

    def __init__(self, source: str, revision: str | None = None):
        """`source`: a path, or a hub id read at `revision`."""
        self.source, self.revision = source, revision
        self.file_hashes: dict[str, str] = {}
        self.commit: str | None = None  # of a hub's data set, where the hub's client tells it
        self._cleanup = ExitStack()

    def __enter__(self) -> "Source":
        """Find the splits; archives are unpacked into a temporary folder."""
        path = Path(self.source)
        if path.exists():
            try:
                self._readers = self._open_local(path)
            except BaseException:
                self._cleanup.close()
                raise
        elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", self.source) and path.suffix not in ENDINGS:
            self._readers, self.commit = _open_hub(self.source, self.revision)
        else:
            raise UserError(
                f"summarization.source: {self.source}: not found; give a hub id (`owner/name`), a "
                "folder, or a .7z, .zip, .json, .jsonl, .csv or .parquet file that exists"
            )
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was unpacked."""
        self._cleanup.close()

    def rows(self, split: str) -> Iterator[SourceRow]:
        """Yield the rows of a split; raises UserError where the source has no such split."""
        if split not in self._readers:
            found = ", ".join(self._readers) or "none"
            raise UserError(
                f"{self.source}: has no split `{split}` (found: {found}); name its file "
                f"{split}.json, .jsonl, .csv or .parquet"
            )
        return self._readers[split]()

    def _open_local(self, path: Path) -> Readers:
        if path.suffix in (".7z", ".zip"):
            folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory()))
            _unpack(path, folder)
            self.file_hashes[path.name] = sha256_of(path)
            files = [f for f in folder.rglob("*") if f.is_file() and is_data(f.name)]
            if len(files) == 1 and not _files_by_split(folder, path):
                return {split: _single_file(files[0], split) for split in SPLITS}
            return _open_folder(folder, path)
        if path.is_dir():
            readers = _open_folder(path, path)
            for file in (f for fs in _files_by_split(path, path).values() for f in fs):
                self.file_hashes[str(file.relative_to(path))] = sha256_of(file)
            return readers
        self.file_hashes[path.name] = sha256_of(path)
        return {split: _single_file(path, split) for split in SPLITS}


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_hub(name: str, revision: str | None) -> tuple[Readers, str | None]:
    from datasets import load_dataset

    try:
        corpus = load_dataset(name, revision=revision)
    except Exception as error:  # the hub client raises a dozen unrelated types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"summarization.source: {name}: not available on the hub, and no such path "
            f"({reason}); set `source` to a folder, archive or file of the corpus on this machine, "
            "or check the network, HF_HUB_OFFLINE and `hf auth login`"
        ) from error

    def reader(split: str) -> Callable[[], Iterator[SourceRow]]:
        return lambda: (
            SourceRow(f"{name} {split} row {n}", row) for n, row in enumerate(corpus[split], 1)
        )

    files = " ".join(next(iter(corpus.values())).info.download_checksums or {})
    commit = re.search(r"@([0-9a-f]{40})/", files)
    readers = {SPLIT_NAMES.get(split, split): reader(split) for split in corpus}
    return readers, commit[1] if commit else None


def _unpack(archive: Path, folder: Path) -> None:
    import py7zr

    try:
        if archive.suffix == ".7z":
            with py7zr.SevenZipFile(archive) as seven:
                _refuse_outside(archive, seven.getnames())
                seven.extractall(folder)
        else:
            with zipfile.ZipFile(archive) as zipped:
                _refuse_outside(archive, zipped.namelist())
                zipped.extractall(folder)
    except DAMAGED + (py7zr.exceptions.ArchiveError, NotImplementedError) as error:
        raise UserError(f"{archive}: is damaged ({error}); fetch it again") from error
    except (py7zr.exceptions.PasswordRequired, RuntimeError) as error:  # zipfile's own for it
        raise UserError(f"{archive}: wants a password; unpack it and name the folder") from error
    except OSError as error:
        raise UserError(
            f"{archive}: cannot be unpacked into {folder} ({error.strerror or error}); free some "
            "space, or set TMPDIR to a folder that has it"
        ) from error


def _refuse_outside(archive: Path, names: list[str]) -> None:
    for name in names:
        posix = PurePosixPath(name.replace("\\", "/"))
        if posix.is_absolute() or ".." in posix.parts or re.match(r"[A-Za-z]:", name):
            raise UserError(
                f"{archive}: member `{name}` points outside the archive's folder; "
                "refused, fetch the archive from a source that you trust"
            )


def _files_by_split(folder: Path, shown: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and is_data(f.name)):
        stem = re.sub(r"-\d+(-of-\d+)?$", "", file.name.split(".")[0].lower())
        split = SPLIT_NAMES.get(stem, stem)
        if split in SPLITS:
            found.setdefault(split, []).append(file)
    for split, files in found.items():
        if len(files) > 1 and not all(re.search(r"-\d+(-of-\d+)?\.", f.name) for f in files):
            names = " and ".join(str(f.relative_to(folder)) for f in files)
            raise UserError(f"{shown}: {names} both claim to be `{split}`; keep one")
    return found


def _open_folder(folder: Path, shown: Path) -> Readers:
    def reader(files: list[Path]) -> Callable[[], Iterator[SourceRow]]:
        return lambda: (
            item for f in files for item in read_file(f, str(shown / f.relative_to(folder)))
        )

    return {split: reader(fs) for split, fs in _files_by_split(folder, shown).items()}


def _single_file(path: Path, wanted: str) -> Callable[[], Iterator[SourceRow]]:
    """Rows of one split of a file: by its `split` column, else by a hash of the row (80/10/10)."""

    def rows() -> Iterator[SourceRow]:
        for place, row in read_file(path, str(path)):
            split = row["split"] if "split" in row else _split_by_hash(row)
            split = SPLIT_NAMES.get(str(split), split)
            if split not in SPLITS:
                raise UserError(f"{place}: `split` is {split!r}; use {', '.join(SPLITS)}")
            if split == wanted:
                yield SourceRow(place, row)

    return rows


def _split_by_hash(row: dict[str, Any]) -> str:
    """Send about 10 % of the rows to test and to validation each, always the same ones."""
    text = json.dumps(row, sort_keys=True, default=str)
    first = hashlib.sha256(text.encode()).digest()[0]
    return "test" if first < 26 else "validation" if first < 52 else "train"


def read_file(path: Path, shown: str) -> Iterator[SourceRow]:
    """Yield the rows of one JSON, JSONL, CSV or Parquet file, plain or gzipped.

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


def _read_csv(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(1 << 30)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    for row in csv.DictReader(text, strict=True):
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
    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1000):
        yield from batch.to_pylist()
