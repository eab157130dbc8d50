"""Prediction files: `predictions.<model>.jsonl`, written whole, resumable while they grow.

While a model generates, each process appends its finished batches to a shard of its own
(eval/predictions.py). The same command goes on from there, on as many processes as it likes; under
another key it starts anew and says why. The key of a finished file stands beside it, in
`.predictions.<model>.key.json`.
"""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from data_prep.errors import UserError, whole_file, writing_to
from data_prep.prompt import dialogue_of
from data_prep.sources import sha256_of

Row = dict[str, Any]
Key = dict[str, Any]


class Work(NamedTuple):
    """What is to be generated, and by whom.

    `batches` holds row numbers; `summarize(b)` makes the results of `batches[b]`; `processes` is
    accelerate's PartialState.
    """

    rows: list[Row]
    instruction: str
    batches: list[list[int]]
    summarize: Callable[[int], list[Row]]
    processes: Any


def generate_file(path: Path, key: Key, work: Work) -> None:
    """Generate a prediction for every row and write `path`, in the order of `rows`.

    Every process calls it; the first one merges the shards. Raises UserError where the folder
    cannot be written or another evaluation is at work there.
    """
    processes = work.processes
    own = shard_path(path, processes.process_index)
    with writing_to(own), own.open("a+b") as file:
        lock(file, own)
        old = begin(file, key) or _recorded(path)
        if old not in (None, key):
            tqdm.write(f"{path}: made anew: {difference(old, key)}")
        processes.wait_for_everyone()  # no shard holds another key from here on
        done = read_shards(path, key)
        processes.wait_for_everyone()  # all have seen the same shards before one of them grows
        todo = [number for number in range(len(work.batches)) if number not in done]
        _generate(file, path, work, done, todo[processes.process_index :: processes.num_processes])
        processes.wait_for_everyone()
        if processes.is_main_process:
            _merge(path, key, work)
    processes.wait_for_everyone()


def made(path: Path, key: Key) -> dict[str, Any] | None:
    """The record of `path` (key, seconds, sha256) if it was made under this key, else None.

    Raises UserError where the file is no longer what was written.
    """
    try:
        record = json.loads(key_file(path).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("key") != key or not path.is_file():
        return None
    if sha256_of(path) != record.get("sha256"):
        raise UserError(
            f"{path}: was changed or cut short since it was made; put it back, or delete it and "
            "the same command makes it anew"
        )
    return record


def copy_predictions(source: Path, target: Path) -> None:
    """Copy a finished file and then its key, each whole or not at all."""
    for part in (lambda path: path, key_file):
        with whole_file(part(target)) as file:
            file.write(part(source).read_text("utf-8"))


def recorded_key(path: Path) -> Key | None:
    """The key under which `path` was made, if it is one of ours and still as it was written."""
    try:
        record = json.loads(key_file(path).read_text("utf-8"))
        return record["key"] if record["sha256"] == sha256_of(path) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def difference(old: object, new: Key) -> str:
    """The names of what differs between two keys, nested ones with a dot."""
    if not isinstance(old, dict):
        return "its key is damaged"
    names = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = [k for k in sorted({*before, *after}) if before.get(k) != after.get(k)]
            names += [f"{name}.{k}" for k in inner]
        elif before != after:
            names.append(name)
    return f"{', '.join(names)} changed"


def key_file(path: Path) -> Path:
    """Where the key of a finished file is kept."""
    return path.with_name(f".{path.stem}.key.json")


def _recorded(path: Path) -> object:
    """The key of an earlier finished file, which is about to be replaced."""
    try:
        return json.loads(key_file(path).read_text("utf-8")).get("key")
    except (OSError, ValueError, AttributeError):
        return None


def _generate(
    file: IO[bytes], path: Path, work: Work, done: dict[int, Row], todo: list[int]
) -> None:
    count = work.processes.num_processes
    before = sum(len(batch["rows"]) for batch in done.values()) // count
    bar = tqdm(
        total=before + sum(len(work.batches[number]) for number in todo),
        initial=before,
        desc=path.stem,
        unit=" dialogues",
        disable=not work.processes.is_main_process,
    )
    tokens, started = 0, monotonic()
    with bar:
        for number in todo:
            start = monotonic()
            rows = work.summarize(number)
            seconds = round(monotonic() - start, 3)
            append(file, {"batch": number, "seconds": seconds, "rows": rows})
            tokens += sum(row["tokens"] for row in rows)
            bar.set_postfix_str(f"{tokens / (monotonic() - started):.0f} tokens/s", refresh=False)
            bar.update(len(rows))


def _merge(path: Path, key: Key, work: Work) -> None:
    batches = read_shards(path, key)
    results = {row["id"]: row for batch in batches.values() for row in batch["rows"]}
    with whole_file(path) as out:
        for row in work.rows:
            texts = {
                "id": row["id"],
                "dialogue": dialogue_of(row, work.instruction),
                "reference": row["messages"][1]["content"],
            }
            out.write(line({**texts, **results[row["id"]]}).decode("utf-8"))
    seconds = round(sum(batch["seconds"] for batch in batches.values()), 1)
    with whole_file(key_file(path)) as out:
        json.dump({"key": key, "sha256": sha256_of(path), "seconds": seconds}, out)
    for shard in shards(path):
        shard.unlink(missing_ok=True)


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
