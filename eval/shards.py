"""Shards: what one process has generated so far, appended a batch a line, readable after a kill.

The first line of a shard holds the key of the run, every later one `{"batch", "seconds", "rows"}`.
A line that was cut is as if it had not been written.
"""

import fcntl
import json
from pathlib import Path
from typing import IO, Any

from data_prep.errors import UserError

Row = dict[str, Any]
Key = dict[str, Any]


def shard_path(path: Path, rank: int) -> Path:
    """The shard of process `rank` of the predictions file `path`."""
    return path.with_name(f".{path.stem}.{rank}.partial.jsonl")


def shards(path: Path) -> list[Path]:
    """Every shard of the predictions file `path`."""
    return sorted(path.parent.glob(f".{path.stem}.*.partial.jsonl"))


def lock(file: IO[bytes], path: Path) -> None:
    """Raise UserError where another process writes the same shard."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"{path}: another evaluation writes it; wait, or use --output") from error


def begin(file: IO[bytes], key: Key) -> Key | None:
    """Keep what stands there under `key`, up to the last whole line; else start anew.

    Returns the other key that stood there, if there was one.
    """
    found, _, whole = _read(file)
    if found != key:
        whole = 0
    file.truncate(whole)
    if not whole:
        append(file, {"key": key})
    return found if found != key else None


def append(file: IO[bytes], record: Row) -> None:
    """Write one line, and hand it to the operating system: a killed process loses none of it."""
    file.write(line(record))
    file.flush()


def read_shards(path: Path, key: Key) -> dict[int, Row]:
    """Finished batches by number, from every shard under `key`."""
    done: dict[int, Row] = {}
    for shard in shards(path):
        with shard.open("rb") as file:
            found, batches, _ = _read(file)
        if found == key:
            done |= batches
    return done


def line(record: Row) -> bytes:
    """A record as one line of JSON in UTF-8."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"


def _read(file: IO[bytes]) -> tuple[Key | None, dict[int, Row], int]:
    """Key and batches of a shard, and how many bytes its whole lines fill."""
    key, batches, whole = None, {}, 0
    file.seek(0)
    for text in file:
        try:
            record = json.loads(text) if text.endswith(b"\n") else None
        except ValueError:
            record = None
        if not isinstance(record, dict):
            break
        if not whole:
            key = record.get("key")
        elif record.keys() == {"batch", "seconds", "rows"}:
            batches[record["batch"]] = record
        else:
            break
        whole += len(text)
    return key, batches, whole
