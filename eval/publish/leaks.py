"""What must not be published: absolute paths, corpus text, files that may run code.

Use: `check_staged(folder, corpus_texts(recipe))`; raises UserError that names file and finding.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from data_prep.errors import UserError
from data_prep.prompt import dialogue_of
from data_prep.recipe import Recipe

TEXT = {".md", ".yml", ".jinja", ".txt"}
# Letters, digits and single blanks alone are compared, so that no wrapping, comment sign or quote
# hides a quotation. Of a longer text any WINDOW + STRIDE of them are found; a shorter text as a
# whole, from SHORT on: below that, words may meet by chance.
WINDOW, STRIDE, SHORT = 40, 8, 20
# Two folders deep at the least, so that neither `and/or` nor `[/INST]` is a path.
PATH = re.compile(
    r"(?<![\w.:/<~\\)\]}-])/[\w.@+-]+/[\w.@+/-]*"  # /home/me/model
    r"|(?<![\w.:/])/(?:home|Users|root|mnt|media|tmp|srv|opt|workspace)/[\w.@+-]"  # </home/me>
    r"|file:/+[\w.]"
    r"|(?<![\w/])~[A-Za-z]*/[\w.]"
    r"|(?<![A-Za-z0-9])[A-Za-z]:(?:\\+|/)(?!/)\w"  # C:\models
    r"|(?<!\\)\\\\[\w.-]+\\+[\w.$-]+"  # \\server\share
)


def check_staged(folder: Path, corpus: Iterable[str]) -> None:
    """Look through every file of `folder`; `corpus`: texts that may not stand in any of them."""
    windows: dict[str, str] = {}
    flats: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder).as_posix()
        try:
            text = "\n".join(_strings(path, name))
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: is not UTF-8 ({error.reason}); save it as that") from error
        if found := _path_in(text):
            raise UserError(
                f"{name}: would publish the path `{found}`; make it relative where it comes from "
                "(the recipe, or a file beside the adapter)"
            )
        flat = _flat(text)
        flats[name] = f" {flat} "
        for start in range(len(flat) - WINDOW + 1):
            windows.setdefault(flat[start : start + WINDOW], name)
    for quoted in corpus:
        if place := _quoted(_flat(quoted), windows, flats):
            raise UserError(
                f"{place[0]}: would publish text of the prepared data (`{place[1]}`); "
                "take it out where it comes from (the recipe's comments, instruction or note)"
            )


def _quoted(flat: str, windows: dict[str, str], flats: dict[str, str]) -> tuple[str, str] | None:
    """The file in which a part of the text stands, and that part."""
    if len(flat) < WINDOW:
        files = (n for n, text in flats.items() if f" {flat} " in text)
        name = next(files, None) if len(flat) >= SHORT else None
        return (name, flat) if name else None
    for start in (*range(0, len(flat) - WINDOW, STRIDE), len(flat) - WINDOW):
        part = flat[start : start + WINDOW]
        if part in windows:
            return windows[part], part
    return None


def _flat(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def corpus_texts(recipe: Recipe) -> Iterator[str]:
    """The dialogues and summaries of the prepared splits."""
    for split in ("train", "validation", "test"):
        with (recipe.data_dir / f"{split}.jsonl").open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                yield dialogue_of(row, recipe.summarization.instruction)
                yield row["messages"][1]["content"]


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
        yield (text := path.read_text("utf-8"))
        if path.suffix == ".yml":  # once more without the escapes of its strings
            yield from _in_json(yaml.safe_load(text))
    elif path.suffix == ".safetensors":
        yield from _in_safetensors(path, name)
    elif path.name != "tokenizer.model":  # pieces of a vocabulary, in binary
        raise UserError(f"{name}: is not published; only safetensors, text and JSON are")


def _json(path: Path, name: str) -> Any:
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{name}: damaged ({error}); make it anew") from error
    if (
        name == "tokenizer.json"
        and isinstance(found, dict)
        and isinstance(found.get("model"), dict)
    ):
        found["model"] = {k: v for k, v in found["model"].items() if k not in ("vocab", "merges")}
    return found


def _in_json(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
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
