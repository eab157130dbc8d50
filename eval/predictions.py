"""Prediction files: `predictions.<model>.jsonl`, written whole, resumable while they grow.

While a model generates, finished batches are appended to `.predictions.<model>.partial.jsonl`,
whose first line is the key of the run (model, adapter, prompt, decoding, data). The same command
goes on from there; under another key it starts anew.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.errors import whole_file, writing_to
from data_prep.prompt import dialogue_of
from data_prep.recipe import Recipe

Row = dict[str, Any]
Summarize = Callable[[list[Row]], Iterator[list[Row]]]


def generate_file(
    path: Path, key: str, rows: list[Row], instruction: str, summarize: Summarize
) -> None:
    """Generate a prediction for every row and write `path`, in the order of `rows`."""
    partial = path.with_name(f".{path.stem}.partial.jsonl")
    done = _read_partial(partial, key)
    todo = [row for row in rows if row["id"] not in done]
    with writing_to(partial), partial.open("w", encoding="utf-8") as file:
        for line in [{"key": key}, *done.values()]:
            file.write(_line(line))
        with tqdm(total=len(rows), initial=len(done), desc=path.stem, unit=" dialogues") as bar:
            for batch in summarize(todo) if todo else ():
                for result in batch:
                    file.write(_line(result))
                    done[result["id"]] = result
                file.flush()
                bar.update(len(batch))
    with whole_file(path) as out:
        for row in rows:
            result = done[row["id"]]
            dialogue, reference = dialogue_of(row, instruction), row["messages"][1]["content"]
            out.write(
                _line({"id": row["id"], "dialogue": dialogue, "reference": reference, **result})
            )
    partial.unlink(missing_ok=True)


def run_key(recipe: Recipe, model: str, data_hash: str, adapter: Path | None) -> str:
    """Hash of all that decides a model's predictions."""
    parts = {
        "base_model": recipe.config["base_model"],
        "revision": recipe.config.get("revision_of_model"),
        "model": model,
        "adapter": adapter
        and hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest(),
        "chat_template": recipe.config.get("chat_template"),
        "instruction": recipe.summarization.instruction,
        "decoding": recipe.summarization.decoding.model_dump(),
        "data": data_hash,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read_partial(path: Path, key: str) -> dict[str, Row]:
    """Finished predictions of an interrupted run; a last line cut in the middle is left out."""
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    done: dict[str, Row] = {}
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if number == 0:
            if row.get("key") != key:
                return {}
        else:
            done[row["id"]] = row
    return done


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
