"""Slack's export: a folder with `users.json` and, for each channel, a folder with a file a day.

Its times are in UTC, and stay so.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from eval.chats.chat import Chat, Message, media_word

LISTS = ("channels.json", "groups.json", "dms.json", "mpims.json")
DAY = re.compile(r"\d{4}-\d\d-\d\d\.json")
SAID = {None, "bot_message", "file_share", "me_message", "thread_broadcast", "file_comment"}
MARKUP = re.compile(r"<([^<>|]+)(?:\|([^<>]*))?>")


def recognise(folder: Path) -> bool:
    """Whether a folder is an export of Slack."""
    return (folder / "users.json").is_file() or any((folder / name).is_file() for name in LISTS)


def parse(folder: Path, place: str) -> Iterator[Chat | UserError]:
    """Each channel and conversation of an export; for a damaged one the error, then the others.

    Raises UserError where the lists of users or channels are damaged.
    """
    users = {str(user.get("id")): _name(user) for user in _list(folder / "users.json", place)}
    titles = _titles(folder, place, users)
    for channel in sorted(path for path in folder.iterdir() if path.is_dir()):
        days = sorted(path for path in channel.iterdir() if DAY.fullmatch(path.name))
        if not days:
            continue
        shown = f"{place}/{channel.name}"
        try:
            messages = [m for day in days for m in _day(day, f"{shown}/{day.name}", users)]
        except UserError as error:
            yield error
            continue
        title = titles.get(channel.name, channel.name)
        yield Chat(shown, title, messages, people=frozenset(users.values()))


def _name(user: dict[str, Any]) -> str:
    profile = user.get("profile") or {}
    names = (profile.get("display_name"), profile.get("real_name"), user.get("real_name"))
    return next((str(name) for name in names if name), str(user.get("name") or user.get("id")))


def _titles(folder: Path, place: str, users: dict[str, str]) -> dict[str, str]:
    """The title of each folder: `#general`, or who talks to whom."""
    titles = {}
    for name in LISTS:
        for entry in _list(folder / name, place):
            if name == "dms.json":
                members = [users.get(str(m), str(m)) for m in entry.get("members") or []]
                titles[str(entry.get("id"))] = ", ".join(members)
            else:
                titles[str(entry.get("name"))] = f"#{entry.get('name')}"
    return titles


def _list(path: Path, place: str) -> list[dict[str, Any]]:
    """The objects of a JSON file; none where it does not exist."""
    if not path.is_file():
        return []
    shown = f"{place}/{path.name}"
    return _objects(path, shown)


def _objects(path: Path, shown: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{shown}: cannot be read ({error}); export or unpack it again") from error
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise UserError(f"{shown}: is no list of objects; export or unpack it again")
    return found


def _day(path: Path, shown: str, users: dict[str, str]) -> Iterator[Message]:
    """The messages of a day; replies follow what they reply to, where that is of the same day."""
    entries = _objects(path, shown)
    try:
        here = {entry.get("ts") for entry in entries}
        entries.sort(key=lambda e: (float(_root(e, here)), float(e["ts"])))
        for entry in entries:
            if entry.get("type") == "message" and entry.get("subtype") in SAID:
                text = _text(entry, users)
                if text:
                    when = datetime.fromtimestamp(int(float(entry["ts"])), UTC).replace(tzinfo=None)
                    yield Message(when, _speaker(entry, users), text)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{shown}: holds what is no message of Slack ({error!r}); export it again"
        ) from error


def _root(entry: dict[str, Any], here: set[Any]) -> str:
    thread = entry.get("thread_ts")
    return str(thread if thread in here else entry["ts"])


def _speaker(entry: dict[str, Any], users: dict[str, str]) -> str:
    user = entry.get("user")
    if user in users and entry.get("subtype") != "bot_message":
        return users[user]
    profile = entry.get("user_profile") or entry.get("bot_profile") or {}
    names = (profile.get("display_name"), entry.get("username"), profile.get("real_name"))
    found = next((name for name in (*names, profile.get("name"), user) if name), "bot")
    return str(found)


def _text(entry: dict[str, Any], users: dict[str, str]) -> str:
    """The text without Slack's markup; a bot's may stand in its attachments alone."""
    text = entry.get("text") or ""
    if not text:
        attached = entry.get("attachments") or []
        text = " ".join(str(a.get("text") or a.get("fallback") or "") for a in attached)
    text = MARKUP.sub(lambda m: _plain(m[1], m[2], users), text)
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    files = [media_word(str(f.get("name") or f.get("mode"))) for f in entry.get("files") or []]
    return " ".join(part for part in (text.strip(), *files) if part)


def _plain(target: str, label: str | None, users: dict[str, str]) -> str:
    """What `<target|label>` looks like to a reader."""
    if target.startswith("@"):
        return f"@{users.get(target[1:]) or label or target[1:]}"
    if target.startswith("#"):
        return f"#{label or target[1:]}"
    if target.startswith("!"):
        return label or f"@{target[1:].split('^')[0]}"
    return label or target.removeprefix("mailto:")
