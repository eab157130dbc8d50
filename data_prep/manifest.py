"""The manifest of prepared data: how it is written, and whether files and recipe still agree."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from data_prep.errors import UserError
from data_prep.recipe import Recipe
from data_prep.sources import sha256_of


def data_settings(recipe: Recipe) -> dict[str, Any]:
    """What of the recipe shapes the prepared rows; evaluation compares it with the manifest's."""
    others = {"decoding", "metrics", "training_rouge", "publish", "eval_on_start"}
    return recipe.summarization.model_dump(exclude=others)


def check_prepared(recipe: Recipe) -> dict[str, Any]:
    """Return the manifest if the prepared files are whole and made by this recipe.

    Raises UserError that says what differs and how to mend it.
    """
    again = f"run `python -m data_prep {recipe.path}`"
    path = recipe.data_dir / "manifest.json"
    try:
        manifest = json.loads(path.read_text("utf-8"))
        made_with, files = dict(manifest["settings"]), dict(manifest["files"])
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; {again}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error!r}); {again}") from error
    for key, value in json.loads(json.dumps(data_settings(recipe))).items():
        if made_with.get(key) != value:
            raise UserError(
                f"{recipe.path}: summarization.{key} changed since the data were prepared; {again}"
            )
    for name, digest in files.items():
        file = recipe.data_dir / name
        if not file.is_file() or sha256_of(file) != digest:
            raise UserError(f"{file}: missing or changed since it was prepared; {again}")
    return manifest


@contextmanager
def spools() -> Iterator[tuple[IO[str], IO[str]]]:
    """Two temporary files for lists that may be as long as the corpus."""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as first,
        tempfile.TemporaryFile("w+", encoding="utf-8") as second,
    ):
        yield first, second


def spool(file: IO[str], entry: dict[str, Any]) -> None:
    """Append an entry to one of the `spools`."""
    file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def write_manifest(file: IO[str], head: dict[str, Any], lists: dict[str, IO[str]]) -> None:
    """JSON of `head` plus long lists that were spooled to disk, one entry a line."""
    file.write(json.dumps(head, indent=2, ensure_ascii=False)[:-2])
    for name, spooled in lists.items():
        spooled.seek(0)
        file.write(f',\n  "{name}": [')
        for number, line in enumerate(spooled):
            file.write((",\n    " if number else "\n    ") + line.rstrip("\n"))
        file.write("]")
    file.write("\n}\n")
