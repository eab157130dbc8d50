"""Recognise what is given: a dialogue as text, a file, a folder or an archive, and read its chats.

Use: `for item in read_all(["chat.txt", "export.zip"], "dialogue", sys.stdin.buffer): ...`.
"""

import json
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from chat import slack, telegram, whatsapp
from chat.chat import Chat, check_size, parse_plain
from data_prep.clean import HALF_PAIR
from data_prep.errors import UserError

UNPACKED = (".txt", ".json", ".jsonl")  # what can hold messages in an archive
KNOWN = (".txt", ".text", ".log", ".md", "", ".json", ".jsonl", ".zip")
JSON_START = re.compile(r'\s*(?:\[\s*)?\{\s*["}]')  # a pasted chat may begin with `[20:15, `
TITLE = re.compile(r"WhatsApp[ -]Chat(?: with| mit| -|:)? ", re.IGNORECASE)

Item = Chat | UserError | str  # a chat, why one cannot be used, or a note


def read_all(inputs: Iterable[str], field: str, stdin: IO[bytes]) -> Iterator[Item]:
    """The chats of all inputs, one after another; a bad one gives its error.

    `-` is standard input; `field` holds the dialogue in JSON and JSONL rows.
    """
    for number, given in enumerate(inputs, 1):
        yield from _with_error(_input(given, f"argument {number}", field, stdin), given)


def _with_error(items: Iterator[Item], shown: str) -> Iterator[Item]:
    """The items, and the error that ends them as the last one, so that others can follow."""
    try:
        yield from items
    except UserError as error:
        yield error
    except RecursionError:
        yield UserError(f"{shown}: has too many folders one in another; give the files themselves")
    except OSError as error:
        reason = error.strerror or error
        yield UserError(f"{shown}: cannot be read ({reason}); check who may read it")


def _input(given: str, argument: str, field: str, stdin: IO[bytes]) -> Iterator[Item]:
    if given == "-":
        text = _decode(stdin.read(), "standard input")
        yield from _text(text, "standard input", "", field)
    elif os.path.exists(given):  # which takes any text, however long
        yield from _path(Path(given), given, field)
    elif "\n" in given or ": " in given:
        if "\n" not in given:
            given = given.replace("\\n", "\n")  # as most shells pass it on
        yield from _text(given, argument, "", field)
    else:
        raise UserError(
            f"{given}: not found; give a file, a folder, `-` for standard input, or a dialogue "
            "itself (`Name: text`)"
        )


def _path(path: Path, shown: str, field: str) -> Iterator[Item]:
    suffix = path.suffix.lower()
    if path.is_dir():
        yield from _folder(path, shown, field)
    elif suffix not in KNOWN:
        raise UserError(f"{shown}: unknown ending; use {', '.join(filter(None, KNOWN))}")
    elif suffix == ".zip":
        with unpacked(path) as folder:
            yield from _folder(folder, shown, field)
    else:
        check_size(path.stat().st_size, shown)
        yield from _text(
            _decode(path.read_bytes(), shown), shown, _title(Path(shown)), field, suffix
        )


def _folder(folder: Path, shown: str, field: str) -> Iterator[Item]:
    """What a folder holds, in the order of names; other kinds of files are counted."""
    if slack.recognise(folder):
        yield from _usable(slack.parse(folder, shown), shown)
        return
    others = found = 0
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        is_link_to_folder = path.is_symlink() and path.is_dir()  # which may lead back here
        if not is_link_to_folder and (path.is_dir() or path.suffix.lower() in KNOWN):
            found += 1
            name = f"{shown}/{path.name}"
            yield from _with_error(_path(path, name, field), name)
        else:
            others += 1
    if not found:
        raise UserError(f"{shown}: holds no file that can be read; use .txt, .json, .jsonl or .zip")
    if others:
        yield f"{shown}: files of other kinds, which are left out: {others}"


def _text(text: str, place: str, name: str, field: str, suffix: str = "") -> Iterator[Item]:
    """The chats of a text of any format, by the file's ending or by how it looks."""
    chats: Iterable[Chat | UserError] | None = None
    if suffix == ".jsonl":
        chats = _lines(text, place, field)
    elif suffix != ".json" and whatsapp.recognise(text):
        chats = [whatsapp.parse(text, place, name)]
    elif suffix == ".json" or text.lstrip()[:1] in ("{", "["):
        try:
            chats = _data(json.loads(text), place, field)
        except (ValueError, RecursionError) as error:
            if suffix == ".json":
                raise UserError(
                    f"{place}: is not JSON ({error}); export it again, or name it .jsonl where "
                    "each line is an object"
                ) from error
            if JSON_START.match(text):
                chats = _lines(text, place, field)
    yield from _usable(chats or [Chat(place, name, parse_plain(text, place))], place)


def _data(data: Any, place: str, field: str) -> Iterator[Chat | UserError]:
    """The chats of parsed JSON: Telegram's, or rows with a dialogue each."""
    if telegram.recognise(data):
        yield from telegram.parse(data, place)
        return
    for number, row in enumerate(data if isinstance(data, list) else [data], 1):
        yield _row(row, f"{place} row {number}", field)


def _lines(text: str, place: str, field: str) -> Iterator[Chat | UserError]:
    """A chat of each line of JSONL; for a bad line the error, and then the others."""
    for number, line in enumerate(text.split("\n"), 1):
        shown = f"{place}:{number}"
        try:
            if line.strip():
                yield _row(json.loads(line), shown, field)
        except (ValueError, RecursionError) as error:
            yield UserError(f"{shown}: is not JSON ({error}); fix the line")


def _row(row: Any, place: str, field: str) -> Chat | UserError:
    if not isinstance(row, dict):
        return UserError(f"{place}: is no object; each row must be like {{{field!r}: 'Anna: hi'}}")
    if field not in row:
        found = ", ".join(map(str, row)) or "none"
        return UserError(
            f"{place}: has no field `{field}` (found: {found}); name the right one with "
            "--dialogue-field"
        )
    text, row_id = row[field], row.get("id")
    if not isinstance(text, str):
        return UserError(f"{place}: `{field}` is {type(text).__name__}, not text; fix the row")
    name = str(row_id) if isinstance(row_id, (str, int)) else place
    try:
        return Chat(place, name, parse_plain(text, place), row_id)
    except UserError as error:
        return error


def _usable(items: Iterable[Chat | UserError], place: str) -> Iterator[Item]:
    """Chats with messages; empty ones are counted, and an error where there are no others."""
    empty = found = 0
    for item in items:
        if isinstance(item, Chat) and not item.messages:
            empty += 1
            continue
        found += 1
        if isinstance(item, UserError):
            yield item
        elif any(HALF_PAIR.search(message.line()) for message in item.messages):
            yield UserError(f"{item.place}: holds half of a surrogate pair; fix or remove it")
        else:
            yield from (f"{item.place}: {note}" for note in item.notes)
            yield item
    if not found:
        raise UserError(f"{place}: holds no message that a person sent; give another export")
    if empty:
        yield f"{place}: chats without a message, which are left out: {empty}"


def _decode(data: bytes, place: str) -> str:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if error.reason in ("unexpected end of data", "truncated data"):  # a download broke off
            return data.decode(encoding, "replace")
        raise UserError(f"{place}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _title(shown: Path) -> str:
    """A file's name without what WhatsApp sets before it; a zipped `_chat.txt` has the zip's."""
    stem = shown.parent.stem if shown.stem == "_chat" else shown.stem
    return TITLE.sub("", stem) or stem


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """A folder with the text files of a `.zip`, while the block lasts.

    Raises UserError where the archive is too large or cannot be unpacked: damaged, or encrypted.
    """
    with tempfile.TemporaryDirectory() as name:
        try:
            with zipfile.ZipFile(archive) as zipped:
                members = [m for m in zipped.infolist() if m.filename.lower().endswith(UNPACKED)]
                # a Mac adds a folder with what it knows about the files
                members = [m for m in members if "__MACOSX" not in m.filename.split("/")]
                # beside an iPhone's chat are the documents that were sent in it
                chats = [m for m in members if Path(m.filename).name == "_chat.txt"]
                folders = {Path(m.filename).parent for m in chats}
                members = [m for m in members if Path(m.filename).parent not in folders] + chats
                check_size(sum(member.file_size for member in members), archive)
                zipped.extractall(name, members)  # which keeps to the folder
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
            raise UserError(
                f"{archive}: cannot be unpacked ({error}); fetch it again, or unpack it yourself "
                "and give the folder"
            ) from error
        yield Path(name)
