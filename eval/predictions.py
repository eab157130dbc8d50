"""Prediction files, `predictions.<model>.jsonl`: written atomically, resumable until finished.

While a model generates, each process appends its finished batches to its own file, a shard. The
same command resumes from the shards, with any number of processes; if the key has changed, it
starts over and says why. A finished file's key is next to it: `.predictions.<model>.key.json`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from data_prep.console import Bar, say
from data_prep.errors import UserError, atomic_file, check_file, writing_to
from data_prep.prompt import Example
from data_prep.sources import sha256_of
from eval.generate import Batch, Prediction
from eval.signature import GenerationKey, engine_versions


class BatchRecord(BaseModel):
    """One line of a shard: a finished batch."""

    batch: int
    seconds: float
    predictions: list[Prediction]


class FileRecord(BaseModel):
    """The key file: a finished file's generation key, its hash, and the seconds it took."""

    key: GenerationKey
    sha256: str
    seconds: float
    versions: dict[str, str] = {}  # of the engine's packages


def generate_file(
    path: Path,
    key: GenerationKey,
    examples: Sequence[Example],
    batches: list[Batch],
    summarize: Callable[[Batch], list[Prediction]],
    processes: Any,
) -> None:
    """Generate a prediction for every example and write `path`, in the order of `examples`.

    Every process calls it (`processes` is accelerate's PartialState); the main one merges the
    shards. Raises UserError if the folder is not writable or another evaluation writes there.
    """
    shard = path.with_name(f".{path.stem}.{processes.process_index}.partial.jsonl")
    with writing_to(shard), _locked(shard):
        old_key = _keep_if_made_with(shard, key)
        if old_key is None and (record := read_record(path)):
            old_key = record.key
        if old_key and not key.matches(old_key):
            say(f"{path}: generated again: {difference(old_key, key)}")
        processes.wait_for_everyone()  # now every process has a shard with this key
        done = _read_shards(path, key)
        processes.wait_for_everyone()  # all have read the shards before any of them grows
        todo = [batch for batch in batches if batch.number not in done]
        todo = todo[processes.process_index :: processes.num_processes]
        finished = sum(len(batch.predictions) for batch in done.values())
        before = finished // processes.num_processes
        total = before + sum(len(batch.examples) for batch in todo)
        name, is_main = path.stem.removeprefix("predictions."), processes.is_main_process
        bar, tokens = Bar(name, total, "dialogues", before, is_main), 0
        with bar, shard.open("a", encoding="utf-8") as file:
            for batch in todo:
                start = monotonic()
                predictions = summarize(batch)
                line = BatchRecord(
                    batch=batch.number,
                    seconds=round(monotonic() - start, 3),
                    predictions=predictions,
                )
                file.write(line.model_dump_json() + "\n")
                file.flush()  # so a killed process loses no finished batch
                tokens += sum(prediction.tokens for prediction in predictions)
                rate = tokens / (monotonic() - bar.began)
                bar.step(len(predictions), f"{rate:.0f} tokens/s")
        processes.wait_for_everyone()
        if processes.is_main_process:
            _merge(path, key, examples)
            say(f"{name}: {bar.state()}")
    processes.wait_for_everyone()


def finished_record(path: Path, key: GenerationKey) -> FileRecord | None:
    """Return the record of `path` if it was generated with this key, else None.

    Raises UserError if the file has changed since it was written.
    """
    record = read_record(path)
    if record is None or not key.matches(record.key) or not path.is_file():
        return None
    if sha256_of(path) != record.sha256:
        raise UserError(
            f"{path}: was changed or cut short since it was written; restore it, or delete it and "
            "run the same command again"
        )
    return record


def read_record(path: Path) -> FileRecord | None:
    """Return the key file of `path`; None if it is missing or damaged."""
    try:
        check_file(key_file(path))
        return FileRecord.model_validate_json(key_file(path).read_bytes())
    except (OSError, ValidationError):
        return None


def read_predictions(path: Path) -> list[Prediction]:
    """Return the lines of a finished predictions file."""
    with path.open("rb") as file:
        return [Prediction.model_validate_json(line) for line in file]


def copy_predictions(source: Path, target: Path) -> None:
    """Copy a finished file and then its key, each of them atomically."""
    for old, new in ((source, target), (key_file(source), key_file(target))):
        with atomic_file(new) as file:
            file.write(old.read_text("utf-8"))


def matching_record(path: Path) -> FileRecord | None:
    """Return the record of `path` if it still matches the file, else None."""
    record = read_record(path)
    return record if record and record.sha256 == sha256_of(path) else None


def difference(old: GenerationKey, new: GenerationKey) -> str:
    """Say which fields of two keys differ, nested ones with a dot: `decoding.dtype changed`."""
    before, after = old.model_dump(), new.model_dump()
    for key in (before, after):
        key |= {f"decoding.{name}": value for name, value in key.pop("decoding").items()}
    return f"{', '.join(sorted(name for name in after if before[name] != after[name]))} changed"


def key_file(path: Path) -> Path:
    """Return the path of a finished file's key."""
    return path.with_name(f".{path.stem}.key.json")


@contextmanager
def _locked(shard: Path) -> Iterator[None]:
    """Lock a shard; raise UserError if another process is writing it."""
    try:
        with FileLock(shard.with_suffix(".lock"), timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"{shard}: another evaluation uses it; wait, or use --output") from error


def _merge(path: Path, key: GenerationKey, examples: Sequence[Example]) -> None:
    batches = _read_shards(path, key).values()
    predictions = {row.id: row for batch in batches for row in batch.predictions}
    with atomic_file(path) as out:
        for example in examples:
            out.write(predictions[example.id].model_dump_json() + "\n")
    seconds = round(sum(batch.seconds for batch in batches), 1)
    with atomic_file(key_file(path)) as out:
        record = FileRecord(
            key=key,
            sha256=sha256_of(path),
            seconds=seconds,
            versions=engine_versions(key.decoding.engine),
        )
        out.write(record.model_dump_json())
    for shard in _shards(path):
        shard.unlink(missing_ok=True)
        shard.with_suffix(".lock").unlink(missing_ok=True)


def _shards(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f".{path.stem}.*.partial.jsonl"))


def _keep_if_made_with(shard: Path, key: GenerationKey) -> GenerationKey | None:
    """Keep the complete lines of a shard if they were generated with `key`, else empty it.

    Returns the key that the shard had before, if it was a different one.
    """
    old_key, batches = _read_shard(shard)
    is_same = key.matches(old_key)
    kept = list(batches.values()) if is_same else []
    lines = [json.dumps({"key": key.model_dump()}), *(batch.model_dump_json() for batch in kept)]
    with atomic_file(shard) as file:
        file.write("\n".join(lines) + "\n")
    return None if is_same else old_key


def _read_shards(path: Path, key: GenerationKey) -> dict[int, BatchRecord]:
    """Return the finished batches by number, from every shard with this key."""
    done: dict[int, BatchRecord] = {}
    for shard in _shards(path):
        shard_key, batches = _read_shard(shard)
        if key.matches(shard_key):
            done |= batches
    return done


def _read_shard(shard: Path) -> tuple[GenerationKey | None, dict[int, BatchRecord]]:
    """Return the key and batches of a shard, up to the first line that a kill cut short."""
    key: GenerationKey | None = None
    batches: dict[int, BatchRecord] = {}
    if not shard.exists():
        return key, batches
    check_file(shard)
    key_line, *lines = shard.read_bytes().split(b"\n")[:-1] or [b""]
    try:
        key = GenerationKey.model_validate(json.loads(key_line)["key"])
        for line in lines:
            record = BatchRecord.model_validate_json(line)
            batches[record.batch] = record
    except (ValueError, LookupError, TypeError):
        pass
    return key, batches
