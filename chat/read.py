"""Recognise the input (a dialogue as text, a file, folder or archive) and read its chats.

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
from chat.chat import MAX_BYTES, Chat, check_size, dialogue_of, parse_plain, parse_turns
from data_prep.clean import HALF_PAIR
from data_prep.errors import UserError, check_file, error_reason, temporary_folder
from data_prep.sources import MAX_FOLDERS, TOO_DEEP

# Extensions of files that can contain messages; only these are unpacked from an archive.
TEXTS = (".txt", ".text", ".log", ".md", ".json", ".jsonl", ".vtt", ".srt", ".csv", ".xml")
PAGES = (".html", ".htm")
SUFFIXES = (*TEXTS, "", ".zip")
# An export's main file; the files that people sent are next to it.
EXPORT = re.compile(r"_chat\.txt|(?:result|data)\.json|chat\.md|.*WhatsApp.*\.txt", re.IGNORECASE)
MEDIA = re.compile(r"(?:.*_)?(?:media|files|photos|videos|audio|gifs|attachments)", re.IGNORECASE)
PAGE = re.compile(r"messages?_?\d*\.html?", re.IGNORECASE)  # of Telegram, Facebook, Instagram
JSON_START = re.compile(r'\s*(?:\[\s*)?\{\s*["}]')  # a pasted chat may begin with `[20:15, `
JSON_LINES = re.compile(r"\s*\{.*\}[ \t\r]*\n\s*\{")
TURNS_KEYS = ("messages", "conversations", "conversation", "turns", "dialog")  # of OpenAI, ShareGPT
TITLE_PREFIX = re.compile(r"WhatsApp[ -]Chat(?: with| mit| -|:)? ", re.IGNORECASE)

Item = Chat | UserError | str  # a chat, the error of an unusable one, or a note


def read_all(inputs: Iterable[str], field: str, stdin: IO[bytes]) -> Iterator[Item]:
    """Yield the chats of all inputs, one after another; a bad input yields its error.

    `-` is standard input; `field` is the key of the dialogue in JSON and JSONL rows.
    """
    for number, source in enumerate(inputs, 1):
        yield from _with_error(_input(source, f"argument {number}", field, stdin), source)


def read_upload(data: bytes, name: str) -> Iterator[Item]:
    """Yield the chats in the bytes of a file called `name`; without a name, it is plain text.

    Meanwhile the bytes are in a temporary file that no other user can read.
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
    """Yield the items; an error that ends them is yielded last, so that the next input is read."""
    try:
        yield from items
    except UserError as error:
        yield error
    except Exception as error:  # an export may contain anything: report it, read the others
        yield UserError(f"{shown}: {error_reason(error)}; export it again, or give its parts")


def _input(source: str, argument: str, field: str, stdin: IO[bytes]) -> Iterator[Item]:
    if source == "-":
        data = stdin.read(MAX_BYTES + 1)
        check_size(len(data), "standard input")
        text = _decode(data, "standard input")
        yield from _text(text, "standard input", "", field)
    elif os.path.exists(source):  # works for text of any length
        yield from _path(Path(source), source, field)
    elif "\n" in source or ": " in source:
        if "\n" not in source:
            source = source.replace("\\n", "\n")  # most shells do not expand `\n`
        yield from _text(source, argument, "", field)
    else:
        raise UserError(
            f"{source}: not found; give a file, a folder, `-` for standard input, or the dialogue "
            "itself (`Name: text`)"
        )


def _path(path: Path, shown: str, field: str) -> Iterator[Item]:
    suffix = path.suffix.lower()
    if path.is_dir():
        yield from _folder(path, shown, field)
    elif suffix in PAGES:
        raise UserError(f"{shown}: {texts.MARKUP}")
    elif suffix not in SUFFIXES:
        raise UserError(f"{shown}: unknown file extension; use {', '.join(filter(None, SUFFIXES))}")
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
    """Yield the chats of a folder, in order of file names; count the files that are not chats."""
    paths, left_out = _files_to_read(folder, archive)
    for path in paths:
        name = f"{shown}/{path.relative_to(folder)}" if path != folder else shown
        reader = _app_folder if path.is_dir() else _path
        yield from _with_error(reader(path, name, field), name)
    if not paths:
        raise UserError(f"{shown}: has no file that can be read; use .txt, .json, .jsonl or .zip")
    if left_out:
        yield f"{shown}: files left out because they are not chats: {left_out}"


def _app_folder(folder: Path, shown: str, field: str) -> Iterator[Item]:
    """Yield the chats of an export that is a folder: Slack's, or Messenger's split threads."""
    if slack.recognise(folder):
        yield from _usable(slack.parse(folder, shown), shown)
        return
    parts = _thread_parts(folder)
    threads = apps.join_parts(parts)
    for thread in threads:
        yield from _with_error(_usable(apps.parse(thread, shown) or [], shown), shown)
    for path in parts if not threads else []:
        name = f"{shown}/{path.name}"
        yield from _with_error(_path(path, name, field), name)


def _thread_parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if apps.PART.fullmatch(path.name))


def _files_to_read(folder: Path, archive: bool) -> tuple[list[Path], int]:
    """Return the files and export folders to read, and the number of other files and links."""
    if slack.recognise(folder):
        return [folder], 0
    parts = _thread_parts(folder)
    readable, left_out = [folder] if parts else [], 0
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    paths = [path for path in paths if path not in parts]
    for path in paths:
        is_beside = (folder / apps.BESIDE.get(path.name, "")).is_file()
        if path.is_dir() and MEDIA.fullmatch(path.name) and (parts or len(paths) > 1):
            left_out += sum(file.is_file() for file in path.rglob("*"))  # files sent in the chats
        elif path.is_dir() and not path.is_symlink():  # a link may lead back here
            inner, inner_left_out = _files_to_read(path, archive)
            readable, left_out = readable + inner, left_out + inner_left_out
        elif not path.is_dir() and not is_beside \
                and (path.suffix.lower() in SUFFIXES or PAGE.fullmatch(path.name)):  # fmt: skip
            readable.append(path)
        else:
            left_out += 1
    pages = [path for path in paths if PAGE.fullmatch(path.name)]
    exports = [path for path in readable if path.parent == folder and EXPORT.fullmatch(path.name)]
    chosen = readable
    if pages and not any(path.suffix.lower() == ".json" for path in paths):
        chosen = pages[:1]  # an HTML export; all other files were sent in it
    elif exports and exports[0].name == "_chat.txt":  # an iPhone's, next to the files sent in it
        chosen = [path for path in readable if path in exports or path.parent != folder]
    elif exports and (archive or exports[0].name == "chat.md"):
        chosen = exports
    elif exports:  # perhaps among many chats: the files that it mentions were sent in it
        text = "\n".join(path.read_bytes().decode("utf-8", "replace") for path in exports)
        chosen = [path for path in readable if str(path.relative_to(folder)) not in text]
    return chosen, left_out + len(readable) - len(chosen)


def _text(text: str, place: str, name: str, field: str, suffix: str = "") -> Iterator[Item]:
    """Yield the chats of a text in any format, recognised by file extension or content."""
    chats: Iterable[Chat | UserError] = []
    if suffix == ".jsonl":
        chats = _jsonl_chats(text, place, field)
    elif suffix == ".csv":
        chats = [texts.parse_csv(text, place, name)]
    elif suffix != ".json" and (headed := texts.parse(text, place, name, sure=True)):
        chats = headed
    elif suffix not in (".json", ".md") and whatsapp.recognise(text):
        chat = whatsapp.parse(text, place, name)
        has_speaker = any(message.speaker for message in chat.messages)
        text_chats = [] if has_speaker else texts.parse(text, place, name, sure=False)
        chats = text_chats or [chat]
    elif suffix == ".json" or text.lstrip()[:1] in ("{", "["):
        try:
            chats = _json_chats(json.loads(text), place, field)
        except (ValueError, RecursionError) as error:
            if suffix == ".json" and not JSON_LINES.match(text):
                raise UserError(
                    f"{place}: is not JSON ({error}); export it again, or, if each line is an "
                    "object, rename it to .jsonl"
                ) from error
            if JSON_START.match(text):
                chats = _jsonl_chats(text, place, field)
    chats = chats or texts.parse(text, place, name, sure=False)
    yield from _usable(chats or [Chat(place, name, parse_plain(text, place))], place)


def _json_chats(data: Any, place: str, field: str) -> Iterator[Chat | UserError]:
    """Yield the chats of parsed JSON: an app's, a list of turns, or rows with one dialogue each."""
    if isinstance(data, list):
        yield from _rows([(f"{place} row {n}", row) for n, row in enumerate(data, 1)], place, field)
    elif chats := _app_chats(data, place):
        yield from chats
    else:
        yield _row(data, f"{place} row 1", field)


def _jsonl_chats(text: str, place: str, field: str) -> Iterator[Chat | UserError]:
    """Yield the chats of JSONL; a bad line yields its error, and the others are still read."""
    rows: list[tuple[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            rows += [(f"{place}:{number}", json.loads(line))] if line.strip() else []
        except (ValueError, RecursionError) as error:
            shown = f"{place}:{number}"
            rows.append((shown, UserError(f"{shown}: is not JSON ({error}); fix the line")))
    yield from _rows(rows, place, field)


def _rows(rows: list[tuple[str, Any]], place: str, field: str) -> Iterator[Chat | UserError]:
    """Yield the chats of (place, row) pairs; just one error if no row has a dialogue."""
    data = [row for _, row in rows if not isinstance(row, UserError)]
    has_field = any(isinstance(row, dict) and field in row for row in data)
    if not has_field and (chats_of_app := _app_chats(data, place)):
        yield from (row for _, row in rows if isinstance(row, UserError))
        yield from chats_of_app
    elif not has_field and (messages := parse_turns(data)):
        yield Chat(place, _title(Path(place)), messages)
    else:
        chats = [_row(row, shown, field) for shown, row in rows]
        all_bad = not has_field and not any(isinstance(chat, Chat) for chat in chats)
        yield from chats[:1] if all_bad else chats


def _app_chats(data: Any, place: str) -> Iterable[Chat | UserError] | None:
    """Return the chats of an app's export; None for other data."""
    if (found := apps.parse(data, place)) is not None:
        return found
    if chat := slack.parse_file(data, place):
        return [chat]
    return telegram.parse(data, place) if telegram.recognise(data) else None


def _row(row: Any, place: str, field: str) -> Chat | UserError:
    if isinstance(row, UserError):
        return row
    if not isinstance(row, dict):
        return UserError(f"{place}: is not an object; each row must be {{{field!r}: 'Anna: hi'}}")
    row_id = row.get("id")
    name = str(row_id) if isinstance(row_id, (str, int)) else place
    lists = [row.get(key) for key in (TURNS_KEYS if field not in row else [field])]
    if messages := next(filter(None, (parse_turns(turns, field in row) for turns in lists)), None):
        return Chat(place, name, messages, row_id)
    if field not in row:
        keys = ", ".join(map(str, row)) or "none"
        return UserError(
            f"{place}: has no field `{field}` (found: {keys}); name the right one with "
            "--dialogue-field"
        )
    if not isinstance(text := row[field], str):
        return UserError(f"{place}: `{field}` is {type(text).__name__}, not text; fix the row")
    try:
        return Chat(place, name, parse_plain(text, place), row_id)
    except UserError as error:
        return error


def _usable(items: Iterable[Chat | UserError], place: str) -> Iterator[Item]:
    """Yield the chats with messages and count empty ones; raise UserError if all are empty."""
    empty = nonempty = 0
    for item in items:
        if isinstance(item, Chat) and not item.messages:
            empty += 1
            continue
        nonempty += 1
        if isinstance(item, UserError):
            yield item
        else:
            yield from (f"{item.place}: {note}" for note in item.notes)
            yield _encodable(item)
    if not nonempty:
        raise UserError(f"{place}: has no message that a person sent; give another export")
    if empty:
        yield f"{place}: chats left out because they have no message: {empty}"


def _encodable(chat: Chat) -> Chat:
    """Return the chat with U+FFFD for half surrogate pairs, which UTF-8 cannot encode."""
    if not HALF_PAIR.search(chat.name + dialogue_of(chat.messages)):
        return chat
    fixed = partial(HALF_PAIR.sub, "\ufffd")
    messages = [replace(m, speaker=fixed(m.speaker), text=fixed(m.text)) for m in chat.messages]
    return replace(chat, name=fixed(chat.name), messages=messages)


def _decode(data: bytes, place: str) -> str:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if error.reason in ("unexpected end of data", "truncated data"):  # an incomplete download
            return data.decode(encoding, "replace")
        raise UserError(f"{place}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _title(shown: Path) -> str:
    """Return a file's name without WhatsApp's prefix; for a zipped `_chat.txt`, the zip's name."""
    stem = shown.parent.stem if shown.stem == "_chat" else shown.stem
    return TITLE_PREFIX.sub("", stem) or stem


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Unpack the text files of a `.zip` into a temporary folder; removed when the block ends.

    Raises UserError if the archive is too large, damaged or encrypted.
    """
    with temporary_folder() as folder:
        try:
            with zipfile.ZipFile(archive) as zipped:
                members = [
                    m for m in zipped.infolist() if m.filename.lower().endswith((*TEXTS, *PAGES))
                ]
                # macOS adds a folder with file metadata
                members = [m for m in members if "__MACOSX" not in m.filename.split("/")]
                check_size(sum(member.file_size for member in members), archive)
                if any(member.filename.count("/") > MAX_FOLDERS for member in members):
                    raise zipfile.BadZipFile(TOO_DEEP)
                zipped.extractall(folder, members)  # never writes outside the folder
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
            raise UserError(
                f"{archive}: cannot be unpacked ({error}); fetch it again, or unpack it yourself "
                "and give the folder"
            ) from error
        yield folder
