"""Tiny corpora in every format, recipes that read them, and a function to run data_prep."""

import csv
import gzip
import io
import json
import subprocess
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import py7zr
import pyarrow
import pyarrow.parquet

from data_prep.prompt import read_examples
from data_prep.recipe import Recipe, load_recipe
from tests.conftest import derived_recipe, run_module, small_tokenizer

Columns = dict[str, Any]
FILES = {"train": "train", "validation": "val", "test": "test"}
OUTPUTS = ("manifest.json", "test.jsonl", "train.jsonl", "validation.jsonl")


def chat(number: int) -> Columns:
    """Return one distinct row: id, dialogue of two turns, summary."""
    return {
        "id": f"r{number}",
        "dialogue": f"Ola: is bus {number} late again?\nPiet: yes 😅 take tram {number + 1}",
        "summary": f"Bus {number} is late, so Piet tells Ola to take tram {number + 1}.",
    }


def chats(train: int = 6, validation: int = 2, test: int = 2) -> dict[str, list[Columns]]:
    """Return splits of distinct rows."""
    sizes = {"train": train, "validation": validation, "test": test}
    starts = {"train": 0, "validation": 10_000, "test": 20_000}
    return {s: [chat(starts[s] + n) for n in range(size)] for s, size in sizes.items()}


def encode(rows: Iterable[Any], ending: str) -> bytes:
    """Encode rows as `.json`, `.jsonl`, `.csv` or `.parquet`, optionally followed by `.gz`."""
    rows = list(rows)
    if ending.endswith(".gz"):
        return gzip.compress(encode(rows, ending.removesuffix(".gz")))
    if ending == ".json":
        return json.dumps(rows).encode()
    if ending == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if ending == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def write_folder(folder: Path, splits: dict[str, list[Columns]], ending: str = ".json") -> Path:
    """Write a corpus as a folder with `train`, `val` and `test` files."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{FILES[split]}{ending}").write_bytes(encode(rows, ending))
    return folder


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    """Write a `.zip` or `.7z`; any member name is allowed, even one that points outside."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, data in members.items():
                zipped.writestr(name, data)
    else:
        with py7zr.SevenZipFile(path, "w") as seven:
            for name, data in members.items():
                seven._writestr(data, name)  # the public writestr refuses `../evil.json`
    return path


def members(splits: dict[str, list[Columns]], ending: str = ".json") -> dict[str, bytes]:
    """Return the files of `write_folder` as members of an archive."""
    return {f"{FILES[split]}{ending}": encode(rows, ending) for split, rows in splits.items()}


def write_recipe(
    folder: Path, source: object, summarization: dict[str, Any] | None = None, **overrides: Any
) -> Path:
    """Copy recipes/smollm2_samsum.yml with this source and with every output inside `folder`.

    Its tokenizer is the reduced one unless `overrides` sets another `base_model`.
    """
    block = {"source": str(source), **(summarization or {})}
    inner = {f"summarization__{key}": value for key, value in block.items()}
    overrides = {"base_model": str(small_tokenizer()), **overrides}
    return derived_recipe("smollm2_samsum", folder, "recipe", **inner, **overrides)


def outputs(folder: Path) -> dict[str, bytes]:
    """Read every file of a data folder, including hidden ones."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def run_data_prep(recipe: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m data_prep RECIPE` in the repository's root, in this process."""
    return run_module("data_prep.__main__", recipe)


def error_line(stderr: str) -> str:
    """Return the last line of stderr; fail unless it is the only error line, without traceback."""
    lines = stderr.rstrip("\n").split("\n")
    assert "Traceback" not in stderr, stderr[-3000:]
    assert lines[-1].startswith("error: "), stderr[-3000:]
    assert stderr.count("error: ") == 1, stderr[-3000:]
    return lines[-1]


def recipe_for(
    folder: Path, splits: dict[str, list[Columns]], ending: str = ".json", **summarization: Any
) -> Recipe:
    """Load a recipe with a folder of these splits as its source."""
    source = write_folder(folder / "corpus", splits, ending)
    return load_recipe(write_recipe(folder, source, summarization))


def manifest_of(recipe: Recipe) -> dict[str, Any]:
    return json.loads((recipe.data_dir / "manifest.json").read_text("utf-8"))


def pairs(recipe: Recipe, split: str = "train") -> list[tuple[str, str]]:
    """Return the `(dialogue, summary)` of each prepared row."""
    return [
        (example.dialogue, example.summary)
        for example in read_examples(recipe.data_dir / f"{split}.jsonl")
    ]
