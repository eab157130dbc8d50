"""Telegram Desktop's `result.json`: one chat, or all of them under `chats.list`."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from chat.chat import GIF, OTHER, PHOTO, VIDEO, Chat, Message, parse_entries
from data_prep.errors import UserError

MEDIA = {"animation": GIF, "video_file": VIDEO, "video_message": VIDEO}
GONE = "Deleted Account"  # Telegram's own word for a speaker without a name
NAMED = ("from", "actor", "forwarded_from", "saved_from", "inviter", "author")


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
    try:
        messages, notes = parse_entries(chat["messages"], _message, f"{place} ({name})")
    except UserError as error:
        return error
    known = [chat.get("name")] if chat.get("type") == "personal_chat" else []
    known += [who for entry in chat["messages"] for who in _people(entry)]
    people = dict.fromkeys((who,) for who in known if isinstance(who, str) and who.strip())
    return Chat(place, name, messages, people=tuple(people), notes=notes)


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
    """What an entry holds besides text: a poll, a contact, a place."""
    if poll := entry.get("poll"):
        answers = ", ".join(_text(answer["text"]) for answer in poll.get("answers") or [])
        return f"Poll: {_text(poll['question'])} ({answers})"
    if contact := entry.get("contact_information"):
        names = (contact.get("first_name"), contact.get("last_name"))
        return f"Contact: {' '.join(filter(None, names))}"
    return "<location>" if "location_information" in entry else ""


def _people(entry: Any) -> list[Any]:
    """The names that an entry knows: of who sent it, of members, and of who is mentioned in it."""
    if not isinstance(entry, dict):
        return []
    members, parts = entry.get("members"), entry.get("text")
    names = [entry.get(key) for key in NAMED]
    names += members if isinstance(members, list) else []
    if isinstance(contact := entry.get("contact_information"), dict):
        names += [contact.get("first_name"), contact.get("last_name")]
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, dict) and part.get("type") == "mention_name":
            names.append(part.get("text"))
    return names
