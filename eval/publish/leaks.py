"""What must not be published: absolute paths, corpus text, files that may run code.

Use: `check_staged(folder, corpus_lines(recipe))`; raises UserError that names file and finding.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.prompt import dialogue_of
from data_prep.recipe import Recipe

TEXT = {".md", ".yml", ".jinja", ".txt"}
WINDOW = 40  # letters: a line of the corpus that is longer counts as quoted by as many of them
# Two folders deep at the least, so that neither `and/or` nor `[/INST]` is a path.
PATH = re.compile(
    r"(?<![\w.:/<~\\)\]}-])/[\w.@+-]+/[\w.@+/-]*"  # /home/me/model
    r"|file:/+[\w.]"
    r"|(?<![\w/])~/[\w.]"
    r"|(?<![A-Za-z0-9])[A-Za-z]:(?:\\+|/)(?!/)\w"  # C:\models
    r"|(?<!\\)\\\\[\w.-]+\\+[\w.$-]+"  # \\server\share
)


def check_staged(folder: Path, corpus: Iterable[str]) -> None:
    """Look through every file of `folder`; `corpus`: lines that may not stand in any of them."""
    windows: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder).as_posix()
        text = "\n".join(_strings(path, name))
        if found := _path_in(text):
            raise UserError(
                f"{name}: would publish the path `{found}`; make it relative where it comes from "
                "(the recipe, or a file beside the adapter)"
            )
        flat = " ".join(text.split())
        for start in range(len(flat) - WINDOW):
            windows.setdefault(flat[start : start + WINDOW + 1], name)
    for line in corpus:
        flat = " ".join(line.split())
        for end in (flat[: WINDOW + 1], flat[-WINDOW - 1 :]):
            if len(flat) > WINDOW and end in windows:
                raise UserError(
                    f"{windows[end]}: would publish text of the prepared data (`{end[:20]}...`); "
                    "take it out where it comes from (the recipe's comments, instruction or note)"
                )


def corpus_lines(recipe: Recipe) -> Iterator[str]:
    """Every line of the dialogues and summaries of the prepared splits."""
    for split in ("train", "validation", "test"):
        with (recipe.data_dir / f"{split}.jsonl").open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                dialogue = dialogue_of(row, recipe.summarization.instruction)
                yield from dialogue.splitlines()
                yield from row["messages"][1]["content"].splitlines()


def _path_in(text: str) -> str | None:
    own = [str(place) for place in (Path.cwd(), Path.home()) if len(place.parts) > 1]
    for place in own:
        if re.search(rf"(?<![\w.]){re.escape(place)}(?![\w.-])", text):
            return place
    found = PATH.search(text)
    return found[0] if found else None


def _strings(path: Path, name: str) -> Iterator[str]:
    """All text of a file as a reader would see it, escapes resolved."""
    if path.is_symlink():
        raise UserError(f"{name}: is a link; put the file itself there")
    if path.suffix == ".json":
        yield from _in_json(_json(path, name))
    elif path.suffix in TEXT:
        yield path.read_text("utf-8")
    elif path.suffix == ".safetensors":
        yield from _in_safetensors(path, name)
    elif path.name != "tokenizer.model":  # pieces of a vocabulary, in binary
        raise UserError(f"{name}: is not published; only safetensors, text and JSON are")


def _json(path: Path, name: str) -> Any:
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{name}: damaged ({error}); make it anew") from error
    if name == "tokenizer.json" and isinstance(found.get("model"), dict):
        found["model"] = {k: v for k, v in found["model"].items() if k not in ("vocab", "merges")}
    return found


def _in_json(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _in_json(item)
    elif isinstance(value, list):
        for item in value:
            yield from _in_json(item)
    elif isinstance(value, str):
        yield value


def _in_safetensors(path: Path, name: str) -> Iterator[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            yield from file.keys()
            yield from _in_json(file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{name}: is no whole safetensors file ({error}); train anew") from error
