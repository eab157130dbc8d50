"""Prediction files: `predictions.<model>.jsonl`, written whole, resumable while they grow.

While a model generates, finished batches are appended to `.predictions.<model>.partial.jsonl`,
whose first line is the key of the run (model, adapter, prompt, decoding, data). The same command
goes on from there; under another key it starts anew. The key of a finished file stands beside it,
in `.predictions.<model>.key.json`.
"""

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from data_prep.errors import UserError, whole_file, writing_to
from data_prep.prompt import dialogue_of
from data_prep.recipe import Recipe
from data_prep.sources import sha256_of

Row = dict[str, Any]
Summarize = Callable[[list[Row]], Iterator[list[Row]]]


def generate_file(
    path: Path, key: str, rows: list[Row], instruction: str, summarize: Summarize
) -> None:
    """Generate a prediction for every row and write `path`, in the order of `rows`.

    The seconds that generation took, over all sittings, are kept with the key.
    """
    partial = path.with_name(f".{path.stem}.partial.jsonl")
    with writing_to(partial), partial.open("a+b") as file:
        _lock(file, partial)
        done, seconds, whole = _finished(file, key)
        file.truncate(whole)  # a line cut short, or what was made under another key
        if not whole:
            file.write(_line({"key": key}))
        todo = [row for row in rows if row["id"] not in done]
        with tqdm(total=len(rows), initial=len(done), desc=path.stem, unit=" dialogues") as bar:
            start = time.monotonic()
            for batch in summarize(todo) if todo else ():
                done.update({result["id"]: result for result in batch})
                took = {"seconds": seconds + time.monotonic() - start}
                file.write(b"".join(map(_line, [*batch, took])))
                file.flush()
                bar.update(len(batch))
            seconds += time.monotonic() - start
    with whole_file(path) as out:
        for row in rows:
            texts = {
                "id": row["id"],
                "dialogue": dialogue_of(row, instruction),
                "reference": row["messages"][1]["content"],
            }
            out.write(_line({**texts, **done[row["id"]]}).decode("utf-8"))
    with whole_file(_key_file(path)) as out:
        json.dump({"key": key, "seconds": round(seconds, 1)}, out)
    partial.unlink(missing_ok=True)


def seconds_if_made(path: Path, key: str) -> float | None:
    """The seconds that `path` took, if it was made under this very key; None otherwise."""
    try:
        made = json.loads(_key_file(path).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return made["seconds"] if made["key"] == key and path.is_file() else None


def _key_file(path: Path) -> Path:
    return path.with_name(f".{path.stem}.key.json")


def run_key(recipe: Recipe, model: str, data_hash: str, adapter: Path | None) -> str:
    """Hash of all that decides a model's predictions."""
    parts = {
        "base_model": recipe.config["base_model"],
        "revision": recipe.config.get("revision_of_model"),
        "model": model,
        "adapter": adapter
        and [
            sha256_of(adapter / f"adapter_{part}") for part in ("model.safetensors", "config.json")
        ],
        "chat_template": recipe.config.get("chat_template"),
        "instruction": recipe.summarization.instruction,
        "decoding": recipe.summarization.decoding.model_dump(),
        "data": data_hash,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _lock(file: IO[bytes], path: Path) -> None:
    """Refuse a second process that would write the same file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"{path}: another evaluation writes it; wait, or use --output") from error


def _finished(file: IO[bytes], key: str) -> tuple[dict[str, Row], float, int]:
    """Predictions of an interrupted run under `key`, their seconds, and the bytes they fill."""
    done: dict[str, Row] = {}
    seconds, whole = 0.0, 0
    file.seek(0)
    for line in file:
        try:
            row = json.loads(line) if line.endswith(b"\n") else {}
        except ValueError:
            row = {}
        if "seconds" in row:
            seconds = row["seconds"]
        elif "id" in row:
            done[row["id"]] = row
        elif whole or row.get("key") != key:
            break
        whole += len(line)
    return done, seconds, whole


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n"
