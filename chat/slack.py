"""Slack's export: a folder with `users.json` and, for each channel, a folder with a file a day.

Its times are in UTC, and stay so.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chat.chat import Chat, Message, check_size, media_word
from data_prep.errors import UserError

LISTS = ("channels.json", "groups.json", "dms.json", "mpims.json")
Users = dict[str, tuple[str, ...]]  # the names by id, first the one that is shown

MARKUP = re.compile(r"<([^<>|]+)(?:\|([^<>]*))?>")

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


def text_of(entry: dict[str, Any], users: Users) -> str:
    """The text without Slack's markup; it may stand in blocks alone, a bot's in attachments."""
    text = (entry.get("text") or "").strip()
    text = text or "\n".join(map(_block, entry.get("blocks") or [])).strip()
    if not text:
        attached = entry.get("attachments") or []
        text = " ".join(str(a.get("text") or a.get("fallback") or "") for a in attached)
    text = MARKUP.sub(lambda m: _plain(m[1], m[2], users), text)
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    files = [media_word(str(f.get("name") or f.get("mode"))) for f in entry.get("files") or []]
    return " ".join(part for part in (text.strip(), *files) if part)


def _plain(target: str, label: str | None, users: Users) -> str:
    """What `<target|label>` looks like to a reader."""
    if target.startswith("@"):
        name = users[target[1:]][0] if target[1:] in users else label or target[1:]
        return f"@{name}"
    if target.startswith("#"):
        return f"#{label or target[1:]}"
    if target.startswith("!"):
        return label or f"@{target[1:].split('^')[0]}"
    return label or target.removeprefix("mailto:")


def _block(block: dict[str, Any]) -> str:
    """A block, or an element of one, in the markup that a message's text has."""
    kind, text = block.get("type"), block.get("text")
    if kind == "user":
        return f"<@{block['user_id']}>"
    if kind == "channel":
        return f"<#{block['channel_id']}>"
    if kind == "broadcast":
        return f"<!{block['range']}>"
    if kind == "emoji":
        return f":{block['name']}:"
    if kind == "link":
        return f"<{block['url']}|{text}>" if text else f"<{block['url']}>"
    if isinstance(text, dict):  # of a section or a header
        text = text["text"]
    elif kind == "text" and text:  # of rich text, the only one that is not escaped
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    inline = kind in ("rich_text_section", "rich_text_quote", "rich_text_preformatted")
    inner = [*(block.get("fields") or []), *(block.get("elements") or [])]
    return ("" if inline else "\n").join([*([text] if text else []), *map(_block, inner)])


def users_of(folder: Path, place: str, errors: list[UserError]) -> Users:
    """The users that are listed; a list with odd entries adds its error to `errors`.

    Raises UserError where the list cannot be read, for without it nobody's name can be masked.
    """
    users: Users = {}

    def take(user: dict[str, Any]) -> None:
        users[str(user.get("id"))] = names_of(user | {"profile": {}})  # kept where that is odd
        users[str(user.get("id"))] = names_of(user)

    errors.extend(_odd(objects_of(folder / "users.json", place), take, f"{place}/users.json"))
    return users


def names_of(user: dict[str, Any]) -> tuple[str, ...]:
    """All names of a user, the one that Slack shows first; the handle where there is no other."""
    profile = user.get("profile") or {}
    found = (
        profile.get("display_name"), profile.get("real_name"), user.get("real_name"),
        profile.get("first_name"), profile.get("last_name"),
    )  # fmt: skip
    names = [str(name).strip() for name in found if name and str(name).strip()]
    return tuple(dict.fromkeys(names)) or (str(user.get("name") or user.get("id")),)


def titles_of(folder: Path, place: str, users: Users, errors: list[UserError]) -> dict[str, str]:
    """The title of each folder: `#general`, or who talks to whom; damaged lists go to `errors`."""
    titles: dict[str, str] = {}

    def take_channel(entry: dict[str, Any]) -> None:
        titles[str(entry.get("name"))] = f"#{entry.get('name')}"

    def take_direct(entry: dict[str, Any]) -> None:
        members = [users.get(str(m), (str(m),))[0] for m in entry.get("members") or []]
        titles[str(entry.get("id"))] = ", ".join(members)

    for name in LISTS:
        take = take_direct if name == "dms.json" else take_channel
        try:
            errors.extend(_odd(objects_of(folder / name, place), take, f"{place}/{name}"))
        except UserError as error:
            errors.append(error)
    return titles


def objects_of(path: Path, place: str) -> list[dict[str, Any]]:
    """The objects of a JSON file; none where it does not exist.

    Raises UserError where it is damaged or too large.
    """
    if not path.is_file():
        return []
    shown = f"{place}/{path.name}"
    try:
        check_size(path.stat().st_size, shown)
        found = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{shown}: cannot be read ({error}); export or unpack it again") from error
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise UserError(f"{shown}: is no list of objects; export or unpack it again")
    return found


def _odd(
    entries: list[dict[str, Any]], take: Callable[[dict[str, Any]], None], shown: str
) -> Iterator[UserError]:
    """Take in the entries; the error of the first that is odd."""
    first = ""
    for number, entry in enumerate(entries, 1):
        try:
            take(entry)
        except (TypeError, AttributeError) as error:
            first = first or f"{shown}: entry {number} is none of Slack's ({error!r})"
    if first:
        yield UserError(f"{first}; the others are used; export it again")
