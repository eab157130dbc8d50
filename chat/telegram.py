"""Telegram Desktop's `result.json`: one chat, or all of them under `chats.list`."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from chat.chat import GIF, OTHER, PHOTO, VIDEO, Chat, Message
from data_prep.errors import UserError

NAMED = ("from", "actor", "forwarded_from", "saved_from", "inviter", "author")

MEDIA = {"animation": GIF, "video_file": VIDEO, "video_message": VIDEO}
GONE = "Deleted Account"  # Telegram's own word for a speaker without a name


def recognise(data: object) -> bool:
    """Whether parsed JSON is an export of Telegram."""
    if not isinstance(data, dict):
        return False
    return isinstance(data.get("messages"), list) or isinstance(data.get("chats"), dict)


def parse(data: dict[str, Any], place: str) -> Iterator[Chat | UserError]:
    """Each chat of an export; for a damaged one the error, and then the others."""
    if "chats" not in data:
        yield _chat(data, place)
        return
    for block in (data[key] for key in ("chats", "left_chats") if data.get(key) is not None):
        chats = block.get("list") if isinstance(block, dict) else None
        if not isinstance(chats, list):
            yield UserError(f"{place}: `chats` holds no `list`; export the chats again as JSON")
            continue
        for number, chat in enumerate(chats, 1):
            yield _chat(chat, f"{place} chat {number}")


def _chat(chat: Any, place: str) -> Chat | UserError:
    if not isinstance(chat, dict) or not isinstance(chat.get("messages"), list):
        return UserError(f"{place}: has no list of `messages`; export the chat again as JSON")
    name = str(chat.get("name") or chat.get("type") or "chat").replace("_", " ")
    messages, odd = [], []
    for number, entry in enumerate(chat["messages"], 1):
        try:
            message = _message(entry)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            odd.append(f"message {number}: is no message of Telegram ({error!r})")
            continue
        if message:
            messages.append(message)
    if odd and not messages:
        return UserError(f"{place} ({name}), {odd[0]}; export the chat again as JSON")
    notes = (f"messages that are left out: {len(odd)}; {odd[0]}",) if odd else ()
    return Chat(place, name, messages, people=people_of(chat), notes=notes)


def _message(entry: dict[str, Any]) -> Message | None:
    """What a person sent; None for a service message and for one that holds nothing."""
    if entry.get("type") != "message":
        return None
    parts = [_media(entry), _text(entry.get("text")), _extras(entry)]
    text = " ".join(part for part in parts if part)
    if not text:
        return None
    if source := entry.get("forwarded_from"):
        text = f"[forwarded from {source}] {text}"
    when = datetime.fromisoformat(entry["date"]).replace(tzinfo=None)
    return Message(when, str(entry.get("from") or GONE), text)


def _text(text: Any) -> str:
    """A text, a list of texts and entities such as links, mentions and bold words, or nothing."""
    if isinstance(text, str):
        return text.strip()
    parts = (part if isinstance(part, str) else part["text"] or "" for part in text or [])
    return "".join(parts).strip()


def _media(entry: dict[str, Any]) -> str:
    if "photo" in entry:
        return PHOTO
    if entry.get("media_type") == "sticker":
        return str(entry.get("sticker_emoji") or OTHER)
    if "media_type" in entry or "file" in entry:
        return MEDIA.get(entry.get("media_type", ""), OTHER)
    return ""


def _extras(entry: dict[str, Any]) -> str:
    """What stands beside the text: a poll, a contact, a place."""
    if poll := entry.get("poll"):
        answers = ", ".join(_text(answer["text"]) for answer in poll.get("answers") or [])
        return f"Poll: {_text(poll['question'])} ({answers})"
    if contact := entry.get("contact_information"):
        names = (contact.get("first_name"), contact.get("last_name"))
        return f"Contact: {' '.join(filter(None, names))}"
    return "<location>" if "location_information" in entry else ""


def people_of(chat: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """All names, those of a person together where the export gives an id."""
    people: dict[str, dict[str, None]] = {}
    for person, name in _all(chat):
        if isinstance(name, str) and name.strip():
            people.setdefault(str(person or name), {})[name] = None
    return tuple(map(tuple, people.values()))


def _all(chat: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Id, where there is one, and name."""
    if chat.get("type") == "personal_chat":
        yield f"user{chat.get('id')}", chat.get("name")
    for entry in chat["messages"]:
        if isinstance(entry, dict):
            yield from ((entry.get(f"{key}_id"), entry.get(key)) for key in NAMED)
            yield from ((None, name) for name in _list(entry.get("members")))
            yield from _mentions(entry)
            yield from _contact(entry.get("contact_information"))


def _mentions(entry: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    for part in _list(entry.get("text")):
        if isinstance(part, dict) and part.get("type") == "mention_name":
            yield f"user{part.get('user_id')}", part.get("text")


def _contact(contact: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(contact, dict):
        names = [contact.get("first_name"), contact.get("last_name")]
        whole = " ".join(name for name in names if isinstance(name, str)).strip()
        yield from ((whole, name) for name in (whole, *names))


def _list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []
