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

WANTED = (".txt", ".json", ".jsonl")
MOST_FOLDERS = 50  # one in another; exports have three or four

TEXT = (".txt", ".text", ".log", ".md", "")
KNOWN = (*TEXT, ".json", ".jsonl", ".zip")
JSON_START = re.compile(r'\s*(?:\[\s*)?\{\s*["}]')  # a pasted chat may begin with `[20:15, `
TITLE = re.compile(r"WhatsApp[ -]Chat(?: with| mit| -|:)? ", re.IGNORECASE)
Item = Chat | UserError | str  # a chat, why one cannot be used, or a note


def read_all(inputs: Iterable[str], field: str, stdin: IO[bytes]) -> Iterator[Item]:
    """The chats of all inputs, one after another; a bad one gives its error, and the rest go on.

    `-` is standard input; `field` holds the dialogue in JSON and JSONL rows.
    """
    for number, given in enumerate(inputs, 1):
        yield from _going_on(_input(given, f"argument {number}", field, stdin), given)


def _going_on(items: Iterator[Item], shown: str) -> Iterator[Item]:
    """The items, with the error at their end where there is one, so that others can follow."""
    try:
        yield from items
    except UserError as error:
        yield error
    except OSError as error:
        yield UserError(
            f"{shown}: cannot be read ({error.strerror or error}); check who may read it"
        )


def _input(given: str, argument: str, field: str, stdin: IO[bytes]) -> Iterator[Item]:
    if given == "-":
        text = _decode(stdin.read(), "standard input")
        yield from _usable(_recognised(text, "standard input", "", field), "standard input")
    elif os.path.exists(given):  # which takes any text, however long
        yield from _path(Path(given), given, field)
    elif "\n" in given or ": " in given:
        if "\n" not in given:
            given = given.replace("\\n", "\n")  # as most shells pass it on
        yield from _usable(_recognised(given, argument, "", field), argument)
    else:
        raise UserError(
            f"{given}: not found; give a file, a folder, `-` for standard input, or a dialogue "
            "itself (`Name: text`)"
        )


def _path(path: Path, shown: str, field: str) -> Iterator[Item]:
    if path.is_dir():
        yield from _folder(path, shown, field)
        return
    suffix = path.suffix.lower()
    if suffix not in KNOWN:
        raise UserError(f"{shown}: unknown ending; use {', '.join(filter(None, KNOWN))}")
    if suffix == ".zip":
        with unpacked(path) as folder:
            yield from _folder(folder, shown, field)
        return
    check_size(path.stat().st_size, shown)
    text = _decode(path.read_bytes(), shown)
    name = _title(Path(shown))
    if suffix == ".jsonl":
        yield from _usable(parse_lines(text, shown, field), shown)
    elif suffix == ".json":
        yield from _usable(_data(_json(text, shown), shown, field), shown)
    else:
        yield from _usable(_recognised(text, shown, name, field), shown)


def _folder(folder: Path, shown: str, field: str) -> Iterator[Item]:
    """What a folder holds, in the order of names; other kinds of files are counted."""
    if slack.recognise(folder):
        yield from _usable(slack.parse(folder, shown), shown)
        return
    others = found = 0
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if path.is_symlink() and path.is_dir():  # may lead back here
            others += 1
        elif path.is_dir() or path.suffix.lower() in KNOWN:
            found += 1
            name = f"{shown}/{path.name}"
            yield from _going_on(_path(path, name, field), name)
        else:
            others += 1
    if not found:
        raise UserError(f"{shown}: holds no file that can be read; use .txt, .json, .jsonl or .zip")
    if others:
        yield f"{shown}: files of other kinds, which are left out: {others}"


def _recognised(text: str, place: str, name: str, field: str) -> Iterable[Chat | UserError]:
    """The chats of a text of any format, by how it looks."""
    if whatsapp.recognise(text):
        messages, notes = whatsapp.parse(text)
        return [Chat(place, name, messages, notes=notes, people=whatsapp.mentioned(text))]
    if text.lstrip()[:1] in ("{", "["):
        try:
            return _data(json.loads(text), place, field)
        except (ValueError, RecursionError):
            if JSON_START.match(text):
                return parse_lines(text, place, field)
    return [Chat(place, name, parse_plain(text, place))]


def _data(data: Any, place: str, field: str) -> Iterator[Chat | UserError]:
    """The chats of parsed JSON: Telegram's, or rows with a dialogue each."""
    if telegram.recognise(data):
        return telegram.parse(data, place)
    return parse_rows(data if isinstance(data, list) else [data], place, field)


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{place}: is not JSON ({error}); export it again, or name it .jsonl where each line "
            "is an object"
        ) from error


def _usable(items: Iterable[Chat | UserError], place: str) -> Iterator[Item]:
    """Chats with messages; empty ones are counted, and an error where there are no others."""
    empty = found = 0
    for item in items:
        if isinstance(item, UserError):
            found += 1
            yield item
        elif not item.messages:
            empty += 1
        elif any(HALF_PAIR.search(message.line()) for message in item.messages):
            found += 1
            yield UserError(f"{item.place}: holds half of a surrogate pair; mend or remove it")
        else:
            found += 1
            yield from (f"{item.place}: {note}" for note in item.notes)
            yield item
    if not found:
        raise UserError(f"{place}: holds no message that a person sent; give another export")
    if empty:
        yield f"{place}: chats without a message, which are left out: {empty}"


def _decode(data: bytes, place: str) -> str:
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _title(shown: Path) -> str:
    """A file's name without what WhatsApp sets before it; a zipped `_chat.txt` has the zip's."""
    stem = shown.parent.stem if shown.stem == "_chat" else shown.stem
    return TITLE.sub("", stem) or stem


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """A folder with the text files of a `.zip`, while the block lasts.

    Raises UserError where the archive is damaged, wants a password, is too large or cannot be
    unpacked.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            with zipfile.ZipFile(archive) as zipped:
                members = [member for member in zipped.infolist() if _wanted(member.filename)]
                _check(members, archive)
                for member in members:  # `extract` itself keeps to the folder
                    zipped.extract(member, folder)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise UserError(f"{archive}: is damaged ({error}); export or fetch it again") from error
        except RuntimeError as error:  # zipfile's own for it
            raise UserError(
                f"{archive}: wants a password; unpack it and give the folder"
            ) from error
        except OSError as error:
            raise UserError(
                f"{archive}: cannot be unpacked ({error.strerror or error}); unpack it yourself "
                "and give the folder"
            ) from error
        yield folder


def _wanted(name: str) -> bool:
    """Whether a member can hold messages; `__MACOSX` is what a Mac knows about the files."""
    return name.lower().endswith(WANTED) and "__MACOSX" not in name.split("/")


def _check(members: list[zipfile.ZipInfo], archive: Path) -> None:
    check_size(sum(member.file_size for member in members), archive)
    if any(member.filename.count("/") > MOST_FOLDERS for member in members):
        raise UserError(
            f"{archive}: has more than {MOST_FOLDERS} folders one in another; unpack it yourself "
            "and give the files"
        )


def parse_lines(text: str, place: str, field: str) -> Iterator[Chat | UserError]:
    """A chat of each line; for a bad line the error, and then the others."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        shown = f"{place}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield UserError(f"{shown}: is not JSON ({error}); mend the line")
            continue
        yield _row(row, shown, field)


def parse_rows(rows: Iterable[Any], place: str, field: str) -> Iterator[Chat | UserError]:
    """A chat of each object of a list."""
    for number, row in enumerate(rows, 1):
        yield _row(row, f"{place} row {number}", field)


def _row(row: Any, place: str, field: str) -> Chat | UserError:
    if not isinstance(row, dict):
        return UserError(f"{place}: is no object; each row must be like {{{field!r}: 'Anna: hi'}}")
    if field not in row:
        found = ", ".join(map(str, row)) or "none"
        return UserError(
            f"{place}: has no field `{field}` (found: {found}); name the right one with "
            "--dialogue-field"
        )
    text = row[field]
    if not isinstance(text, str):
        return UserError(f"{place}: `{field}` is {type(text).__name__}, not text; mend the row")
    row_id = row.get("id")
    known = isinstance(row_id, (str, int))
    try:
        return Chat(place, str(row_id) if known else place, parse_plain(text, place), row_id)
    except UserError as error:
        return error
