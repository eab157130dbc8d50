"""Slack's export: a folder with `users.json` and, for each channel, a folder with a file a day.

Its times are in UTC, and stay so.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from eval.chats.chat import Chat, Message
from eval.chats.slack_lists import LISTS, Users, names_of, objects_of, titles_of, users_of
from eval.chats.slack_text import text_of

DAY = re.compile(r"\d{4}-\d\d-\d\d\.json")
SAID = {None, "bot_message", "file_share", "me_message", "thread_broadcast", "file_comment"}


def recognise(folder: Path) -> bool:
    """Whether a folder is an export of Slack, with its lists or without, or a channel of one."""
    if any((folder / name).is_file() for name in ("users.json", *LISTS)):
        return True
    inside = _visible(folder)
    folders = [path for path in inside if path.is_dir()]
    files = [path for path in inside if path not in folders]
    if any(path.suffix != ".json" for path in files):  # which would be left out
        return False
    return all(map(_is_channel, folders)) if folders else _is_channel(folder)


def parse(folder: Path, place: str) -> Iterator[Chat | UserError]:
    """Each channel and conversation of an export; for a damaged one the error, then the others.

    Raises UserError where the list of users cannot be read.
    """
    errors: list[UserError] = []
    users = users_of(folder, place, errors)
    titles = titles_of(folder, place, users, errors)
    yield from errors
    if _days(folder):
        yield _channel(folder, place, Path(place).name.removesuffix(".zip"), users)
    for channel in sorted(path for path in folder.iterdir() if path.is_dir() and _days(path)):
        title = titles.get(channel.name, channel.name)
        yield _channel(channel, f"{place}/{channel.name}", title, users)


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _days(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if DAY.fullmatch(path.name))


def _is_channel(folder: Path) -> bool:
    """Whether a folder has days of Slack, and nothing beside them that would be left out."""
    return all(path.suffix == ".json" for path in _visible(folder)) and any(
        map(_is_day, _days(folder))
    )


def _is_day(path: Path) -> bool:
    try:
        entries = objects_of(path, "")
    except UserError:
        return False
    return any(entry.get("type") == "message" and "ts" in entry for entry in entries)


def _channel(folder: Path, place: str, title: str, users: Users) -> Chat | UserError:
    try:
        days = {f"{place}/{path.name}": objects_of(path, place) for path in _days(folder)}
        users = _guests(days.values()) | users
        messages = [m for shown, entries in days.items() for m in _day(entries, shown, users)]
    except UserError as error:
        return error
    return Chat(place, title, messages, people=tuple(users.values()))


def _guests(days: Iterable[list[dict[str, Any]]]) -> Users:
    """Users as their messages have them; guests, and all of an export without its lists."""
    found = ((entry.get("user"), entry.get("user_profile")) for day in days for entry in day)
    return {
        str(user): names_of({"profile": profile, "name": profile.get("name") or user})
        for user, profile in found
        if user and isinstance(profile, dict)
    }


def _day(entries: list[dict[str, Any]], shown: str, users: Users) -> Iterator[Message]:
    """The messages of a day in the order of time."""
    try:
        for entry in sorted(entries, key=lambda entry: float(entry["ts"])):
            if entry.get("type") == "message" and entry.get("subtype") in SAID:
                text = text_of(entry, users)
                if text:
                    when = datetime.fromtimestamp(int(float(entry["ts"])), UTC).replace(tzinfo=None)
                    thread = str(entry.get("thread_ts") or entry["ts"])
                    yield Message(when, _speaker(entry, users), text, thread)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError,
            RecursionError) as error:  # fmt: skip
        raise UserError(
            f"{shown}: holds what is no message of Slack ({error!r}); export it again"
        ) from error


def _speaker(entry: dict[str, Any], users: Users) -> str:
    user = entry.get("user")
    if user in users and entry.get("subtype") != "bot_message":
        return users[user][0]
    profile = entry.get("user_profile") or entry.get("bot_profile") or {}
    names = (profile.get("display_name"), entry.get("username"), profile.get("real_name"))
    found = next((name for name in (*names, profile.get("name"), user) if name), "bot")
    return str(found)
