"""Read a corpus, row by row, from the Hub, an archive, a folder or a single file.

Each split is one file or several; archives are `.zip` or `.7z`; a folder may also be one that
`datasets` wrote with `save_to_disk`.
"""

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, Self

from pydantic import BaseModel

from data_prep.errors import UserError, check_file, error_reason, temporary_folder
from data_prep.formats import DAMAGED, SPLIT_NAMES, SPLITS, SourceRow, is_data, read_file

# the Hub's train-00000-of-00002.parquet, or with a hash before the dot
SHARD = re.compile(r"-(\d+)(?:-of-(\d+)(?:-[0-9a-f]+)?)?(?=\.)")

MAX_FOLDERS = 50  # nested in an archive: the time to find and remove them grows quadratically
TOO_DEEP = f"a file in more than {MAX_FOLDERS} folders"


class Source:
    """A corpus with the splits train, validation and test; use it in a `with` block."""

    def __init__(
        self,
        source: str,
        revision: str | None = None,
        config: str | None = None,
        names: Iterable[str] = (),
        cut: Iterable[str] = (),
    ):
        """`source`: a path, or a Hub id with its `revision` and, if it has subsets, `config`.

        `names`: the wanted columns, found regardless of case. `cut`: the splits that the recipe
        cuts from train, which are not read here.
        """
        self.source, self.revision, self.config = source, revision, config
        self.file_hashes: dict[str, str] = {}
        self._hashed: dict[Path, tuple[int, str]] = {}  # change time and hash
        self.commit: str | None = None  # of a Hub dataset, if the Hub's client reports it
        self.notes: dict[str, None] = {}  # what was guessed or left out, in order
        self._names, self._cut = {"id", "split", *names}, set(cut)
        # the dataset of each split; None: of all splits together
        self._tables: dict[str | None, Any] = {}
        self._files: dict[str | None, list[Path]] = {}  # the same, for files
        self._renamed: dict[tuple[str, ...], dict[str, str]] = {}  # columns to names, by header
        self._root = Path(source)  # or the folder of the unpacked archive; shown as `source`
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
                        f"{error.filename or path}: {error_reason(error)}; check its permissions"
                    ) from error
            elif (
                re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", self.source)
                and not is_data(path.name)
                and path.suffix not in (".zip", ".7z")
            ):
                self._load_from_hub()
            else:
                raise UserError(
                    f"summarization.source: {self.source}: not found; give a Hub id (`owner/name`),"
                    " a folder, or a .7z, .zip, .json, .jsonl, .csv or .parquet file that exists"
                )
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove unpacked files."""
        self._cleanup.close()

    @property
    def splits(self) -> set[str | None]:
        """The splits that the source has; None is one table with all splits."""
        return {*self._files, *self._tables}

    def rows(self, split: str) -> Iterator[SourceRow]:
        """Yield the rows of a split; raises UserError if the source has no such split."""
        one_table = None in self._tables or None in self._files
        key = None if one_table else split
        if key not in self._tables and key not in self._files:
            split_names = ", ".join(map(str, [*self._files, *self._tables])) or "none"
            missing = {"test", "validation"}.difference(self.splits, self._cut)
            settings = " and ".join(f"`summarization.{name}_rows: 0.1`" for name in sorted(missing))
            raise UserError(
                f"{self.source}: has no split `{split}` (found: {split_names}); name its file "
                f"{split}.json, .jsonl, .csv or .parquet"
                + (f", or cut it from train: {settings}" if split != "train" else "")
            )
        for row in self._read(key):
            row = self._with_names(row)
            if not one_table or self._split_of(row) == split:
                yield row

    def _read(self, key: str | None) -> Iterator[SourceRow]:
        for file in self._files.get(key, []):
            shown = Path(self.source, file.relative_to(self._root))
            yield from read_file(file, str(shown), self.notes)
        for number, row in enumerate(self._tables.get(key, ()), 1):
            yield SourceRow(" ".join(filter(None, [self.source, key, f"row {number}"])), row)

    def _with_names(self, row: SourceRow) -> SourceRow:
        """Return the row with wanted columns under their usual names: `Dialogue ` as `dialogue`."""
        header = tuple(row.columns)
        if header not in self._renamed:
            renamed: dict[str, str] = {}
            for name in sorted(self._names.difference(header)):
                matches = [c for c in header if c.strip().casefold() == name.casefold()]
                if len(matches) > 1:
                    names = " and ".join(f"`{column}`" for column in matches)
                    raise UserError(f"{row.place}: {names} could both be `{name}`; rename one")
                renamed |= {column: name for column in matches}
            self._renamed[header] = renamed
            if renamed:
                pairs = ", ".join(f"`{c}` as `{name}`" for c, name in renamed.items())
                self.notes[f"columns in another case are read: {pairs}"] = None
        if renamed := self._renamed[header]:
            columns = {renamed.get(column, column): v for column, v in row.columns.items()}
            return row._replace(columns=columns)
        return row

    def _split_of(self, row: SourceRow) -> str:
        """Return a row's `split` column, or choose by its hash: 10 % each for test, validation."""
        if "split" not in row.columns:
            text = json.dumps(row.columns, sort_keys=True, default=str)
            byte = hashlib.sha256(text.encode()).digest()[0]  # 26 of its 256 values are 10 %
            split = "test" if byte < 26 else "validation" if byte < 52 else "train"
            if self._cut >= {"test", "validation"}:
                return "train"
            self.notes["rows have no column `split`; they are divided by a hash of each"] = None
            return "train" if split in self._cut else split
        value = str(row.columns["split"])
        if (split := SPLIT_NAMES.get(value.strip().lower(), "")) not in SPLITS:
            raise UserError(f"{row.place}: `split` is {value!r}; use {', '.join(SPLITS)}")
        return split

    def _find_files(self, path: Path) -> None:
        folder = path
        if path.suffix in (".7z", ".zip") and path.is_file():
            self._hash([path], path.parent)
            folder = self._root = self._cleanup.enter_context(temporary_folder())
            _unpack(path, folder)
        elif not path.is_dir():
            self._hash([path], path.parent)
            self._files = {None: [path]}
            return
        # macOS adds hidden files to archives
        visible = sorted(f for f in folder.rglob("*") if f.is_file() and f.name[0] not in "._")
        files = [file for file in visible if is_data(file.name)]
        saved_folders = [f.parent for f in visible if f.name in ("dataset_dict.json", "state.json")]
        if saved_folders:
            self._load_from_disk(min(saved_folders, key=lambda parent: len(parent.parts)), path)
            return
        self._files.update(_files_by_split(files, folder, path).items())
        if len(files) == 1 and not self._files:
            self._files = {None: files}
        read = {file for split_files in self._files.values() for file in split_files}
        if self._files and (unread := [f for f in files if f not in read]):
            names = ", ".join(str(file.relative_to(folder)) for file in unread[:5])
            self.notes[f"files without a split's name, which are not read: {names}"] = None
        elif not self._files and files:
            names = ", ".join(str(file.relative_to(folder)) for file in files[:5])
            raise UserError(
                f"{path}: no file has a split's name (found: {names}); rename them train, "
                "validation and test, or give the rows a column `split` and set `source` to "
                "their file"
            )
        if folder == path:
            self._hash([file for file in files if file in read], path)

    def _hash(self, files: list[Path], folder: Path) -> None:
        for file in files:
            self._hashed[file] = state = _state_of(file)
            self.file_hashes[str(file.relative_to(folder))] = state[1]

    def check_unchanged(self) -> None:
        """Raise UserError if a file changed after hashing: the rows may not match its hash."""
        for file, state in self._hashed.items():
            if not file.is_file() or _state_of(file) != state:
                raise UserError(
                    f"{file}: was changed or replaced while it was read; run the same command again"
                )

    def _load_from_disk(self, folder: Path, source: Path) -> None:
        from datasets import Dataset, load_from_disk

        try:
            files = _saved_files(folder)
            if source in (folder, *folder.parents):  # an archive has its own hash
                # hash before loading, so that `check_unchanged` notices a replaced file
                self._hash(files, source)
            corpus: Any = load_from_disk(folder)
            self._tables = {None: corpus} if isinstance(corpus, Dataset) else _by_split(corpus)
        except Exception as error:  # pyarrow, datasets and json raise their own types
            raise UserError(
                f"{folder}: cannot be read as a saved dataset ({' '.join(str(error).split())}); "
                "save it again with `save_to_disk`"
            ) from error

    def _load_from_hub(self) -> None:
        from datasets import load_dataset

        try:
            corpus = load_dataset(self.source, self.config, revision=self.revision)
        except Exception as error:  # the Hub's client raises a dozen unrelated types
            if configs := re.search(r"available configs: \[(.+)\]", str(error)):
                raise UserError(
                    f"summarization.source: {self.source} has several subsets; choose one with "
                    f"`summarization.config`: {configs[1]}"
                ) from error
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"summarization.source: {self.source}: not available on the Hub, and no such path "
                f"({reason}); set `source` to a folder, archive or file of the corpus on this "
                "machine, or check the network, HF_HUB_OFFLINE and `hf auth login`"
            ) from error
        self._tables = _by_split(corpus)
        # `datasets` keeps the commit only in URLs such as hf://…@<commit>/…
        files = " ".join(next(iter(corpus.values())).info.download_checksums or {})
        commit = re.search(r"@([0-9a-f]{40})/", files)
        self.commit = commit[1] if commit else None


def _saved_files(folder: Path) -> list[Path]:
    """Return all files that `load_from_disk` reads, whatever their names; links are followed."""
    index, folders = folder / "dataset_dict.json", [folder]
    if not (folder / "state.json").is_file():  # `datasets` looks for it first, too
        folders = [folder / _checked_name(name, index) for name in _json_of(index)["splits"]]
    files = [] if folders == [folder] else [index]
    for state in (split_folder / "state.json" for split_folder in folders):
        names = [_checked_name(file["filename"], state) for file in _json_of(state)["_data_files"]]
        files += [state, *(state.with_name(name) for name in ("dataset_info.json", *names))]
    return files


def _json_of(path: Path) -> Any:
    check_file(path)
    return json.loads(path.read_bytes())


def _checked_name(name: str, named_by: Path) -> str:
    if Path(name).name != name or name in ("", ".."):
        raise ValueError(f"{named_by} refers to a file outside its folder: {name}")
    return name


def _by_split(corpus: dict[str, Any]) -> dict[str | None, Any]:
    return {SPLIT_NAMES.get(split.lower(), split): rows for split, rows in corpus.items()}


def _state_of(path: Path) -> tuple[int, str]:
    # the content alone would not show a file that was replaced for a while and then restored
    return path.stat().st_ctime_ns, sha256_of(path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces; raises UserError for a pipe or a device."""
    check_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Sealed(BaseModel):
    """A record on disk with a hash of its other fields, so that edits are noticed.

    Records of earlier versions have no hash and are accepted.
    """

    digest: str = ""

    def sealed(self) -> Self:
        """Return a copy with its hash."""
        return self.model_copy(update={"digest": self._hash(self.model_dump_json())})

    def check(self, path: Path, fix: str) -> None:
        """Raise UserError if the record, which was read from `path`, was edited."""
        # a field that a later version added is unset, and was not in the hash
        if self.digest and self.digest != self._hash(self.model_dump_json(exclude_unset=True)):
            raise UserError(f"{path}: was changed since it was written; {fix}")

    def _hash(self, text: str) -> str:
        content = json.loads(text) | {"digest": ""}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    import py7zr

    try:
        opener: Any = py7zr.SevenZipFile if archive.suffix == ".7z" else zipfile.ZipFile
        with opener(archive) as packed:
            entries = packed.infolist() if archive.suffix == ".zip" else packed.list()
            size = sum(getattr(e, "file_size", None) or e.uncompressed for e in entries)
            if size > (free := shutil.disk_usage(folder).free):
                raise UserError(
                    f"{archive}: needs {size / 1e9:.1f} GB, and only {free / 1e9:.1f} are free; "
                    "fetch it from a source that you trust, or set TMPDIR to a larger disk"
                )
            # zipfile would silently write such a member to another place in the folder
            for name in packed.namelist():
                posix = PurePosixPath(name.replace("\\", "/"))
                if posix.is_absolute() or ".." in posix.parts or re.match(r"[A-Za-z]:", name):
                    raise UserError(
                        f"{archive}: member `{name}` points outside the archive's folder; "
                        "refused, fetch the archive from a source that you trust"
                    )
                if len(posix.parts) > MAX_FOLDERS:
                    raise ValueError(TOO_DEEP)
            packed.extractall(folder)
    except DAMAGED + (py7zr.exceptions.ArchiveError, NotImplementedError) as error:
        raise UserError(f"{archive}: is damaged ({error}); fetch it again") from error
    except (py7zr.exceptions.PasswordRequired, RuntimeError) as error:  # the latter by zipfile
        raise UserError(f"{archive}: needs a password; unpack it and use the folder") from error
    except OSError as error:
        raise UserError(
            f"{archive}: cannot be unpacked into {folder} ({error.strerror or error}); free some "
            "space, or set TMPDIR to a folder that has it"
        ) from error


def _files_by_split(files: list[Path], folder: Path, shown: Path) -> dict[str, list[Path]]:
    """Return each split's files: `train.json`, else `my.train.json`, else `train/0000.json`."""
    by_split: dict[str, list[Path]] = {}
    by_folder: dict[str, list[Path]] = {}
    by_part: dict[str, list[Path]] = {}
    for file in files:
        stem = SHARD.sub("", file.name.lower())
        splits = {SPLIT_NAMES[w] for w in re.split(r"[\W_]+", stem) if w in SPLIT_NAMES}
        folder_split = SPLIT_NAMES.get(file.parent.name.lower()) if file.parent != folder else None
        if split := SPLIT_NAMES.get(stem.split(".")[0]):
            by_split.setdefault(split, []).append(file)
        elif len(splits) == 1:
            by_part.setdefault(splits.pop(), []).append(file)
        elif folder_split:
            by_folder.setdefault(folder_split, []).append(file)
    by_split = by_folder | by_part | by_split
    for split, split_files in by_split.items():
        if split_files is by_folder.get(split) and len({file.parent for file in split_files}) == 1:
            continue
        shards = [SHARD.search(file.name) for file in split_files]
        if len(split_files) == 1 and shards[0] and not shards[0][2]:
            continue  # the number may be a year
        if len(split_files) > 1 and not all(shards):
            names = " and ".join(str(file.relative_to(folder)) for file in split_files)
            inner = split_files[0].relative_to(folder).parts[:-1]
            hint = f", or set `source` to the folder {shown / inner[0]}" if inner else ""
            raise UserError(f"{shown}: {names} both claim to be `{split}`; keep one{hint}")
        numbers = [int(shard[1]) for shard in shards if shard]
        totals = {int(shard[2] or max(numbers)) for shard in shards if shard}
        if numbers:  # usually numbered from 0, sometimes from 1
            last = max(totals) if max(numbers) == max(totals) else max(totals) - 1
            expected = range(last - max(totals) + 1 if 0 not in numbers else 0, last + 1)
            missing = sorted({*expected}.difference(numbers))
            if missing or len(numbers) != len(expected):
                raise UserError(
                    f"{shown}: of the {len(expected)} parts of `{split}` these are missing: "
                    f"{', '.join(map(str, missing)) or 'none, but there are others'}; fetch them "
                    "again"
                )
    return by_split
