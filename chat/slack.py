"""Slack's export: `users.json`, and a folder for each channel with one file per day.

Also reads a single such file, and a conversation from the API or slackdump. Times stay in UTC.
"""

import html
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from chat.chat import Chat, Message, People, load_json, media_word, parse_entries, said, utc
from data_prep.errors import UserError

USER_FILES = ("users.json", "org_users.json")  # the latter in Enterprise Grid
CHANNEL_FILES = ("channels.json", "groups.json", "dms.json", "mpims.json")
DAY_FILE = re.compile(r"\d{4}-\d\d-\d\d\.json")
SUBTYPES = {None, "bot_message", "file_share", "me_message", "thread_broadcast", "file_comment"}
MARKUP = re.compile(r"<([^<>|]+)(?:\|([^<>]*))?>")
# Elements of blocks, and the markup that they have in a message's text.
ELEMENTS = {
    "user": "<@{user_id}>", "channel": "<#{channel_id}>", "broadcast": "<!{range}>",
    "emoji": ":{name}:",
}  # fmt: skip
INLINE = {"rich_text_section", "rich_text_quote", "rich_text_preformatted"}


def recognise(folder: Path) -> bool:
    """Return whether a folder is a Slack export, with or without its lists, or a channel of one."""
    if any((folder / name).is_file() for name in (*USER_FILES, *CHANNEL_FILES)):
        return True
    files = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    depth = len(folder.parts) + 2  # any other file would be left out
    only_days = all(DAY_FILE.fullmatch(path.name) and len(path.parts) <= depth for path in files)
    return only_days and any(map(_is_day, files))


def parse(folder: Path, place: str) -> Iterator[Chat | UserError]:
    """Yield each channel and conversation of an export; a damaged one yields its error.

    Raises UserError if the list of users cannot be read: no name could be masked without it.
    """
    users = [user for name in USER_FILES for user in _objects(folder / name, place)]
    people = People()
    for user in sorted(users, key=lambda user: user.get("deleted") is True):
        _add_user(people, user, user.get("profile"))
    titles: dict[str, str] = {}
    for name in CHANNEL_FILES:
        try:
            for entry in _objects(folder / name, place):
                if name == "dms.json":
                    members = entry.get("members")
                    members = map(str, members if isinstance(members, list) else [])
                    titles[str(entry.get("id"))] = ", ".join(map(people.name, members))
                else:
                    titles[str(entry.get("name"))] = f"#{entry.get('name')}"
        except UserError as error:
            yield error
    if _day_files(folder):
        yield _channel(folder, place, Path(place).name.removesuffix(".zip"), people)
    for channel in sorted(path for path in folder.iterdir() if path.is_dir() and _day_files(path)):
        title = titles.get(channel.name) or channel.name
        yield _channel(channel, f"{place}/{channel.name}", title, people)
    other_files = {path.name for path in folder.glob("*.json")} - {*USER_FILES, *CHANNEL_FILES}
    for name in sorted(name for name in other_files if not DAY_FILE.fullmatch(name)):
        with suppress(UserError):  # the file may not be a conversation
            if chat := parse_file(load_json(folder / name, name), f"{place}/{name}", people):
                yield chat


def parse_file(data: Any, place: str, people: People | None = None) -> Chat | UserError | None:
    """Return the conversation of a JSON file (export, API or slackdump); None for other files."""
    entries = data.get("messages") if isinstance(data, dict) else data
    if not isinstance(entries, list) or not any(map(_is_message, entries)):
        return None
    entries = [entry for entry in entries if isinstance(entry, dict)]
    times = {str(entry.get("ts")) for entry in entries}  # some replies are in the channel too
    for replies in [entry.get("slackdump_thread_replies") for entry in entries]:
        if isinstance(replies, list):
            entries += [r for r in replies if _is_message(r) and str(r["ts"]) not in times]
    title = (data.get("name") if isinstance(data, dict) else "") or Path(place).stem
    return _chat({place: entries}, place, str(title), people or People())


def _day_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if DAY_FILE.fullmatch(path.name))


def _is_day(path: Path) -> bool:
    with suppress(UserError):
        return any(map(_is_message, _objects(path, "")))
    return False


def _is_message(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("type") == "message" and "ts" in entry


def _objects(path: Path, place: str) -> list[dict[str, Any]]:
    """Return the objects of a JSON file; empty if it does not exist.

    Raises UserError if it is damaged or too large.
    """
    if not path.is_file():
        return []
    shown = f"{place}/{path.name}"
    data = load_json(path, shown)
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    if not entries and data != []:
        raise UserError(f"{shown}: is not a list of objects; export or unpack it again")
    return entries


def _add_user(people: People, user: dict[str, Any], profile: Any) -> None:
    """Add all names of a user, first the one that Slack shows; the handle if there is no other."""
    profile = profile if isinstance(profile, dict) else {}
    names = [
        profile.get("display_name"), profile.get("real_name"), user.get("real_name"),
        profile.get("first_name"), profile.get("last_name"),
    ]  # fmt: skip
    people.name(str(user.get("id")), *(names if any(names) else [user.get("name")]))


def _channel(folder: Path, place: str, title: str, people: People) -> Chat | UserError:
    try:
        days = {f"{place}/{path.name}": _objects(path, place) for path in _day_files(folder)}
    except UserError as error:
        return error
    return _chat(days, place, title, people)


def _chat(
    days: dict[str, list[dict[str, Any]]], place: str, title: str, people: People
) -> Chat | UserError:
    # guests, and everybody in an export without its lists, are only known from their messages
    for entry in chain(*days.values()):
        if entry.get("user") and isinstance(profile := entry.get("user_profile"), dict):
            _add_user(people, {"id": entry["user"], "name": profile.get("name")}, profile)
    messages, notes = [], []
    for day, entries in days.items():
        in_order = sorted(entries, key=lambda entry: str(entry.get("ts")))
        try:
            day_messages, day_notes = parse_entries(in_order, partial(_message, people), day)
        except UserError as error:
            return error
        messages += day_messages
        notes += [f"{Path(day).name}: {note}" for note in day_notes]
    return Chat(place, title, messages, people=people.all(), notes=tuple(notes))


def _message(people: People, entry: dict[str, Any]) -> Message | None:
    """Return what a person or a bot said; None for what Slack itself wrote."""
    if entry.get("type") != "message" or entry.get("subtype") not in SUBTYPES:
        return None
    time, thread = utc(int(float(entry["ts"]))), str(entry.get("thread_ts") or entry["ts"])
    return said(time, _speaker(entry, people), *_parts(entry, people), thread=thread)


def _speaker(entry: dict[str, Any], people: People) -> str:
    """Return a user's name; for a bot, the one in its message, as it may have several."""
    user, profile = entry.get("user"), entry.get("bot_profile") or {}
    username = "Slackbot" if user == "USLACKBOT" else entry.get("username")  # rarely in users.json
    names = username, profile.get("name")
    if user and entry.get("subtype") != "bot_message":
        return people.name(user, *names)
    return people.name(None, *names, user, "bot")


def _parts(entry: dict[str, Any], people: People) -> list[str]:
    """Return text without markup, and files; some text is only in blocks or a bot's attachments."""
    text = (entry.get("text") or "").strip()
    text = text or "\n".join(map(_block, entry.get("blocks") or [])).strip()
    if not text:
        attached = entry.get("attachments") or []
        text = " ".join(str(a.get("text") or a.get("fallback") or "") for a in attached)
    text = html.unescape(MARKUP.sub(lambda m: _plain(m[1], m[2], people), text))
    files = [media_word(str(f.get("name") or f.get("mode"))) for f in entry.get("files") or []]
    return [text, *files]


def _plain(target: str, label: str | None, people: People) -> str:
    """Return what Slack shows for `<target|label>`."""
    kind, name = target[0], target[1:]
    if kind == "@":
        return f"@{people.name(name, label)}"
    if kind == "#":
        return f"#{label or name}"
    if kind == "!":
        return label or f"@{name.split('^')[0]}"
    return label or target.removeprefix("mailto:")


def _block(block: dict[str, Any]) -> str:
    """Return a block, or an element of one, in the markup of a message's text."""
    kind, text = str(block.get("type")), block.get("text")
    if kind in ELEMENTS:
        return ELEMENTS[kind].format_map(block)
    if kind == "link":
        return f"<{block['url']}|{text}>" if text else f"<{block['url']}>"
    if isinstance(text, dict):  # in a section or a header
        text = text["text"]
    elif kind == "text" and text:  # in rich text, the only text that is not escaped
        text = html.escape(text, quote=False)
    inner = [*(block.get("fields") or []), *(block.get("elements") or [])]
    return ("" if kind in INLINE else "\n").join([*([text] if text else []), *map(_block, inner)])
