"""Slack's export: a folder with `users.json` and, for each channel, a folder with a file a day.

Its times are in UTC, and stay so.
"""

import html
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from chat.chat import Chat, Message, check_size, media_word, parse_entries
from data_prep.errors import UserError

LISTS = ("channels.json", "groups.json", "dms.json", "mpims.json")
DAY = re.compile(r"\d{4}-\d\d-\d\d\.json")
SAID = {None, "bot_message", "file_share", "me_message", "thread_broadcast", "file_comment"}
MARKUP = re.compile(r"<([^<>|]+)(?:\|([^<>]*))?>")
# Elements of blocks, in the markup that a message's text has for them.
ELEMENTS = {
    "user": "<@{user_id}>", "channel": "<#{channel_id}>", "broadcast": "<!{range}>",
    "emoji": ":{name}:",
}  # fmt: skip
INLINE = {"rich_text_section", "rich_text_quote", "rich_text_preformatted"}

Users = dict[str, tuple[str, ...]]  # the names by id, first the one that is shown


def recognise(folder: Path) -> bool:
    """Whether a folder is an export of Slack, with its lists or without, or a channel of one."""
    if any((folder / name).is_file() for name in ("users.json", *LISTS)):
        return True
    files = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    depth = len(folder.parts) + 2  # a file of another kind would be left out
    only_days = all(DAY.fullmatch(path.name) and len(path.parts) <= depth for path in files)
    return only_days and any(map(_is_day, files))


def parse(folder: Path, place: str) -> Iterator[Chat | UserError]:
    """Each channel and conversation of an export; for a damaged one the error, then the others.

    Raises UserError where the list of users cannot be read: no name could be masked without it.
    """
    listed = _objects(folder / "users.json", place)
    users = {str(user.get("id")): _names(user, user.get("profile")) for user in listed}
    titles: dict[str, str] = {}
    for name in LISTS:
        try:
            for entry in _objects(folder / name, place):
                if name == "dms.json":
                    members = entry.get("members")
                    members = map(str, members if isinstance(members, list) else [])
                    shown = [users.get(member, (member,))[0] for member in members]
                    titles[str(entry.get("id"))] = ", ".join(shown)
                else:
                    titles[str(entry.get("name"))] = f"#{entry.get('name')}"
        except UserError as error:
            yield error
    if _days(folder):
        yield _channel(folder, place, Path(place).name.removesuffix(".zip"), users)
    for channel in sorted(path for path in folder.iterdir() if path.is_dir() and _days(path)):
        title = titles.get(channel.name) or channel.name
        yield _channel(channel, f"{place}/{channel.name}", title, users)


def _days(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if DAY.fullmatch(path.name))


def _is_day(path: Path) -> bool:
    with suppress(UserError):
        return any(e.get("type") == "message" and "ts" in e for e in _objects(path, ""))
    return False


def _objects(path: Path, place: str) -> list[dict[str, Any]]:
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


def _names(user: dict[str, Any], profile: Any) -> tuple[str, ...]:
    """All names of a user, the one that Slack shows first; the handle where there is no other."""
    profile = profile if isinstance(profile, dict) else {}
    found = (
        profile.get("display_name"), profile.get("real_name"), user.get("real_name"),
        profile.get("first_name"), profile.get("last_name"),
    )  # fmt: skip
    names = [str(name).strip() for name in found if name and str(name).strip()]
    return tuple(dict.fromkeys(names)) or (str(user.get("name") or user.get("id")),)


def _channel(folder: Path, place: str, title: str, users: Users) -> Chat | UserError:
    try:
        days = {path.name: _objects(path, place) for path in _days(folder)}
        # guests, and everybody in an export without its lists, are known from their messages
        guests = {
            str(entry["user"]): _names({"name": profile.get("name"), "id": entry["user"]}, profile)
            for entries in days.values()
            for entry in entries
            if entry.get("user") and isinstance(profile := entry.get("user_profile"), dict)
        }
        users = guests | users
        messages, notes = [], []
        for day, entries in days.items():
            in_order = sorted(entries, key=lambda entry: str(entry.get("ts")))
            found, odd = parse_entries(in_order, partial(_message, users), f"{place}/{day}")
            messages += found
            notes += [f"{day}: {note}" for note in odd]
    except UserError as error:
        return error
    return Chat(place, title, messages, people=tuple(users.values()), notes=tuple(notes))


def _message(users: Users, entry: dict[str, Any]) -> Message | None:
    """What a person or a bot said; None for what Slack itself wrote."""
    when = datetime.fromtimestamp(int(float(entry["ts"])), UTC).replace(tzinfo=None)
    if entry.get("type") != "message" or entry.get("subtype") not in SAID:
        return None
    text, thread = _text(entry, users), str(entry.get("thread_ts") or entry["ts"])
    return Message(when, _speaker(entry, users), text, thread) if text else None


def _speaker(entry: dict[str, Any], users: Users) -> str:
    user = entry.get("user")
    if user in users and entry.get("subtype") != "bot_message":
        return users[user][0]
    profile = entry.get("user_profile") or entry.get("bot_profile") or {}
    names = (profile.get("display_name"), entry.get("username"), profile.get("real_name"))
    return str(next((name for name in (*names, profile.get("name"), user) if name), "bot"))


def _text(entry: dict[str, Any], users: Users) -> str:
    """The text without Slack's markup; some is in blocks alone, a bot's in attachments."""
    text = (entry.get("text") or "").strip()
    text = text or "\n".join(map(_block, entry.get("blocks") or [])).strip()
    if not text:
        attached = entry.get("attachments") or []
        text = " ".join(str(a.get("text") or a.get("fallback") or "") for a in attached)
    text = html.unescape(MARKUP.sub(lambda m: _plain(m[1], m[2], users), text))
    files = [media_word(str(f.get("name") or f.get("mode"))) for f in entry.get("files") or []]
    return " ".join(part for part in (text.strip(), *files) if part)


def _plain(target: str, label: str | None, users: Users) -> str:
    """What `<target|label>` looks like to a reader."""
    kind, name = target[0], target[1:]
    if kind == "@":
        return f"@{users[name][0] if name in users else label or name}"
    if kind == "#":
        return f"#{label or name}"
    if kind == "!":
        return label or f"@{name.split('^')[0]}"
    return label or target.removeprefix("mailto:")


def _block(block: dict[str, Any]) -> str:
    """A block, or an element of one, in the markup that a message's text has."""
    kind, text = str(block.get("type")), block.get("text")
    if kind in ELEMENTS:
        return ELEMENTS[kind].format_map(block)
    if kind == "link":
        return f"<{block['url']}|{text}>" if text else f"<{block['url']}>"
    if isinstance(text, dict):  # of a section or a header
        text = text["text"]
    elif kind == "text" and text:  # of rich text, the only one that is not escaped
        text = html.escape(text, quote=False)
    inner = [*(block.get("fields") or []), *(block.get("elements") or [])]
    return ("" if kind in INLINE else "\n").join([*([text] if text else []), *map(_block, inner)])
