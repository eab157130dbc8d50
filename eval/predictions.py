"""Prediction files: `predictions.<model>.jsonl`, written whole, resumable while they grow.

While a model generates, finished batches are appended to `.predictions.<model>.partial.jsonl`,
whose first line is the key of the run (model, adapter, prompt, decoding, data). The same command
goes on from there; under another key it starts anew. The key of a finished file stands beside it,
in `.predictions.<model>.key.json`.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.errors import whole_file, writing_to
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
    done, seconds = _read_partial(partial, key)
    todo = [row for row in rows if row["id"] not in done]
    with writing_to(partial), partial.open("w", encoding="utf-8") as file:
        file.write(_line({"key": key}) + _line({"seconds": seconds}))
        file.writelines(_line(result) for result in done.values())
        with tqdm(total=len(rows), initial=len(done), desc=path.stem, unit=" dialogues") as bar:
            start = time.monotonic()
            for batch in summarize(todo) if todo else ():
                for result in batch:
                    file.write(_line(result))
                    done[result["id"]] = result
                file.write(_line({"seconds": seconds + time.monotonic() - start}))
                file.flush()
                bar.update(len(batch))
            seconds += time.monotonic() - start
    with whole_file(path) as out:
        for row in rows:
            result = done[row["id"]]
            dialogue, reference = dialogue_of(row, instruction), row["messages"][1]["content"]
            out.write(
                _line({"id": row["id"], "dialogue": dialogue, "reference": reference, **result})
            )
    with whole_file(_key_file(path)) as file:
        file.write(_line({"key": key, "seconds": round(seconds, 1)}))
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


def _read_partial(path: Path, key: str) -> tuple[dict[str, Row], float]:
    """Finished predictions of an interrupted run and their seconds, without a line cut short."""
    try:
        lines = path.read_text("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return {}, 0.0
    done: dict[str, Row] = {}
    seconds = 0.0
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if number == 0:
            if row.get("key") != key:
                return {}, 0.0
        elif "seconds" in row:
            seconds = row["seconds"]
        else:
            done[row["id"]] = row
    return done, seconds


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
