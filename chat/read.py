"""Recognise what is given: a dialogue as text, a file, a folder or an archive, and read its chats.

Use: `for item in read_all(["chat.txt", "export.zip"], "dialogue", sys.stdin.buffer): ...`.
"""

import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from chat import apps, slack, telegram, texts, whatsapp
from chat.chat import MOST_BYTES, Chat, check_size, dialogue_of, parse_plain, parse_turns
from data_prep.clean import HALF_PAIR
from data_prep.errors import UserError, check_file, reason_of, temporary_folder
from data_prep.sources import MOST_FOLDERS, TOO_DEEP

# What can hold messages; of an archive, files with these endings are unpacked.
TEXTS = (".txt", ".text", ".log", ".md", ".json", ".jsonl", ".vtt", ".srt", ".csv", ".xml")
PAGES = (".html", ".htm")
KNOWN = (*TEXTS, "", ".zip")
# An export's own file, beside which lie the files that people sent.
EXPORT = re.compile(r"_chat\.txt|(?:result|data)\.json|chat\.md|.*WhatsApp.*\.txt", re.IGNORECASE)
MEDIA = re.compile(r"(?:.*_)?(?:media|files|photos|videos|audio|gifs|attachments)", re.IGNORECASE)
PAGE = re.compile(r"messages?_?\d*\.html?", re.IGNORECASE)  # of Telegram, Facebook, Instagram
JSON_START = re.compile(r'\s*(?:\[\s*)?\{\s*["}]')  # a pasted chat may begin with `[20:15, `
JSON_LINES = re.compile(r"\s*\{.*\}[ \t\r]*\n\s*\{")
TURNS = ("messages", "conversations", "conversation", "turns", "dialog")  # of OpenAI, ShareGPT
TITLE = re.compile(r"WhatsApp[ -]Chat(?: with| mit| -|:)? ", re.IGNORECASE)

Item = Chat | UserError | str  # a chat, why one cannot be used, or a note


def read_all(inputs: Iterable[str], field: str, stdin: IO[bytes]) -> Iterator[Item]:
    """The chats of all inputs, one after another; a bad one gives its error.

    `-` is standard input; `field` holds the dialogue in JSON and JSONL rows.
    """
    for number, given in enumerate(inputs, 1):
        yield from _with_error(_input(given, f"argument {number}", field, stdin), given)


def read_upload(data: bytes, name: str) -> Iterator[Item]:
    """The chats of a file's bytes, read as a file of that name; one without a name is plain text.

    They lie in a file of the temporary folder, which no other user may read, while it is read.
    """
    suffix = Path(name).suffix.lower()
    with temporary_folder() as folder:
        path = folder / f"export{suffix if re.fullmatch(r'[.][a-z0-9]{1,9}', suffix) else ''}"
        path.write_bytes(data)
        shown = name or "the text"
        for item in _with_error(_path(path, shown, "dialogue"), shown):
            is_error = isinstance(item, UserError)
            yield UserError(str(item).replace(str(path), shown)) if is_error else item


def _with_error(items: Iterator[Item], shown: str) -> Iterator[Item]:
    """The items, and the error that ends them as the last one, so that others can follow."""
    try:
        yield from items
    except UserError as error:
        yield error
    except Exception as error:  # an export may hold anything: say so, and read the others
        yield UserError(f"{shown}: {reason_of(error)}; export it again, or give its parts")


def _input(given: str, argument: str, field: str, stdin: IO[bytes]) -> Iterator[Item]:
    if given == "-":
        data = stdin.read(MOST_BYTES + 1)
        check_size(len(data), "standard input")
        text = _decode(data, "standard input")
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
    elif suffix in PAGES:
        raise UserError(f"{shown}: {texts.MARKUP}")
    elif suffix not in KNOWN:
        raise UserError(f"{shown}: unknown ending; use {', '.join(filter(None, KNOWN))}")
    elif suffix == ".zip":
        with unpacked(path) as folder:
            yield from _folder(folder, shown, field, archive=True)
    else:
        check_file(path)
        check_size(path.stat().st_size, shown)
        yield from _text(
            _decode(path.read_bytes(), shown), shown, _title(Path(shown)), field, suffix
        )


def _folder(folder: Path, shown: str, field: str, archive: bool = False) -> Iterator[Item]:
    """What a folder holds, in the order of names; what is no chat is counted."""
    paths, left = _listed(folder, archive)
    for path in paths:
        name = f"{shown}/{path.relative_to(folder)}" if path != folder else shown
        read = _app_folder if path.is_dir() else _path
        yield from _with_error(read(path, name, field), name)
    if not paths:
        raise UserError(f"{shown}: holds no file that can be read; use .txt, .json, .jsonl or .zip")
    if left:
        yield f"{shown}: files that are no chats, which are left out: {left}"


def _app_folder(folder: Path, shown: str, field: str) -> Iterator[Item]:
    """The chats of an export that is a folder: of Slack, or of Messenger's parts of threads."""
    if slack.recognise(folder):
        yield from _usable(slack.parse(folder, shown), shown)
        return
    parts = _parts(folder)
    threads = apps.join_parts(parts)
    for thread in threads:
        yield from _with_error(_usable(apps.parse(thread, shown) or [], shown), shown)
    for path in parts if not threads else []:
        name = f"{shown}/{path.name}"
        yield from _with_error(_path(path, name, field), name)


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if apps.PART.fullmatch(path.name))


def _listed(folder: Path, archive: bool) -> tuple[list[Path], int]:
    """Files, and folders that are an export, to read; and how many files and links are besides."""
    if slack.recognise(folder):
        return [folder], 0
    parts = _parts(folder)
    found, left = [folder] if parts else [], 0
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    paths = [path for path in paths if path not in parts]
    for path in paths:
        is_beside = (folder / apps.BESIDE.get(path.name, "")).is_file()
        if path.is_dir() and MEDIA.fullmatch(path.name) and (parts or len(paths) > 1):
            left += sum(one.is_file() for one in path.rglob("*"))  # what was sent in the chats
        elif path.is_dir() and not path.is_symlink():  # a link may lead back here
            inner, others = _listed(path, archive)
            found, left = found + inner, left + others
        elif not path.is_dir() and not is_beside \
                and (path.suffix.lower() in KNOWN or PAGE.fullmatch(path.name)):  # fmt: skip
            found.append(path)
        else:
            left += 1
    pages = [path for path in paths if PAGE.fullmatch(path.name)]
    exports = [path for path in found if path.parent == folder and EXPORT.fullmatch(path.name)]
    own = found
    if pages and not any(path.suffix.lower() == ".json" for path in paths):
        own = pages[:1]  # an export as HTML; all others were sent in it
    elif exports and exports[0].name == "_chat.txt":  # an iPhone's, with what was sent beside it
        own = [path for path in found if path in exports or path.parent != folder]
    elif exports and (archive or exports[0].name == "chat.md"):
        own = exports
    elif exports:  # perhaps in a folder of many chats: what it names was sent in it
        text = "\n".join(path.read_bytes().decode("utf-8", "replace") for path in exports)
        own = [path for path in found if str(path.relative_to(folder)) not in text]
    return own, left + len(found) - len(own)


def _text(text: str, place: str, name: str, field: str, suffix: str = "") -> Iterator[Item]:
    """The chats of a text of any format, by the file's ending or by how it looks."""
    chats: Iterable[Chat | UserError] = []
    if suffix == ".jsonl":
        chats = _lines(text, place, field)
    elif suffix == ".csv":
        chats = [texts.parse_csv(text, place, name)]
    elif suffix != ".json" and (headed := texts.parse(text, place, name, sure=True)):
        chats = headed
    elif suffix not in (".json", ".md") and whatsapp.recognise(text):
        found = whatsapp.parse(text, place, name)
        said = any(message.speaker for message in found.messages)
        others = [] if said else texts.parse(text, place, name, sure=False)
        chats = others or [found]
    elif suffix == ".json" or text.lstrip()[:1] in ("{", "["):
        try:
            chats = _data(json.loads(text), place, field)
        except (ValueError, RecursionError) as error:
            if suffix == ".json" and not JSON_LINES.match(text):
                raise UserError(
                    f"{place}: is not JSON ({error}); export it again, or name it .jsonl where "
                    "each line is an object"
                ) from error
            if JSON_START.match(text):
                chats = _lines(text, place, field)
    chats = chats or texts.parse(text, place, name, sure=False)
    yield from _usable(chats or [Chat(place, name, parse_plain(text, place))], place)


def _data(data: Any, place: str, field: str) -> Iterator[Chat | UserError]:
    """The chats of parsed JSON: an app's, a list of turns, or rows with a dialogue each."""
    if isinstance(data, list):
        yield from _rows([(f"{place} row {n}", row) for n, row in enumerate(data, 1)], place, field)
    elif found := _of_app(data, place):
        yield from found
    else:
        yield _row(data, f"{place} row 1", field)


def _lines(text: str, place: str, field: str) -> Iterator[Chat | UserError]:
    """The chats of JSONL; for a bad line the error, and then the others."""
    rows: list[tuple[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            rows += [(f"{place}:{number}", json.loads(line))] if line.strip() else []
        except (ValueError, RecursionError) as error:
            shown = f"{place}:{number}"
            rows.append((shown, UserError(f"{shown}: is not JSON ({error}); fix the line")))
    yield from _rows(rows, place, field)


def _rows(rows: list[tuple[str, Any]], place: str, field: str) -> Iterator[Chat | UserError]:
    """The chats of rows, each with its place; one error where no row has a dialogue."""
    data = [row for _, row in rows if not isinstance(row, UserError)]
    has_field = any(isinstance(row, dict) and field in row for row in data)
    if not has_field and (found := _of_app(data, place)):
        yield from (row for _, row in rows if isinstance(row, UserError))
        yield from found
    elif not has_field and (messages := parse_turns(data)):
        yield Chat(place, _title(Path(place)), messages)
    else:
        chats = [_row(row, shown, field) for shown, row in rows]
        other = not has_field and not any(isinstance(chat, Chat) for chat in chats)
        yield from chats[:1] if other else chats


def _of_app(data: Any, place: str) -> Iterable[Chat | UserError] | None:
    """The chats of an app's export; None for other data."""
    if (found := apps.parse(data, place)) is not None:
        return found
    if chat := slack.parse_file(data, place):
        return [chat]
    return telegram.parse(data, place) if telegram.recognise(data) else None


def _row(row: Any, place: str, field: str) -> Chat | UserError:
    if isinstance(row, UserError):
        return row
    if not isinstance(row, dict):
        return UserError(f"{place}: is no object; each row must be like {{{field!r}: 'Anna: hi'}}")
    row_id = row.get("id")
    name = str(row_id) if isinstance(row_id, (str, int)) else place
    lists = [row.get(key) for key in (TURNS if field not in row else [field])]
    if messages := next(filter(None, (parse_turns(turns, field in row) for turns in lists)), None):
        return Chat(place, name, messages, row_id)
    if field not in row:
        found = ", ".join(map(str, row)) or "none"
        return UserError(
            f"{place}: has no field `{field}` (found: {found}); name the right one with "
            "--dialogue-field"
        )
    if not isinstance(text := row[field], str):
        return UserError(f"{place}: `{field}` is {type(text).__name__}, not text; fix the row")
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
        else:
            yield from (f"{item.place}: {note}" for note in item.notes)
            yield _whole(item)
    if not found:
        raise UserError(f"{place}: holds no message that a person sent; give another export")
    if empty:
        yield f"{place}: chats without a message, which are left out: {empty}"


def _whole(chat: Chat) -> Chat:
    """The chat with U+FFFD for each half of a surrogate pair, which UTF-8 cannot hold."""
    if not HALF_PAIR.search(chat.name + dialogue_of(chat.messages)):
        return chat
    whole = partial(HALF_PAIR.sub, "\ufffd")
    messages = [replace(m, speaker=whole(m.speaker), text=whole(m.text)) for m in chat.messages]
    return replace(chat, name=whole(chat.name), messages=messages)


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
    with temporary_folder() as folder:
        try:
            with zipfile.ZipFile(archive) as zipped:
                members = [
                    m for m in zipped.infolist() if m.filename.lower().endswith((*TEXTS, *PAGES))
                ]
                # a Mac adds a folder with what it knows about the files
                members = [m for m in members if "__MACOSX" not in m.filename.split("/")]
                check_size(sum(member.file_size for member in members), archive)
                if any(member.filename.count("/") > MOST_FOLDERS for member in members):
                    raise zipfile.BadZipFile(TOO_DEEP)
                zipped.extractall(folder, members)  # which keeps to the folder
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
            raise UserError(
                f"{archive}: cannot be unpacked ({error}); fetch it again, or unpack it yourself "
                "and give the folder"
            ) from error
        yield folder
