"""Telegram Desktop's `result.json`: one chat, or all chats under `chats.list`."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

from chat.chat import GIF, OTHER, PHOTO, VIDEO, Chat, Message, People, parse_entries, said
from data_prep.errors import UserError

MEDIA = {"animation": GIF, "video_file": VIDEO, "video_message": VIDEO}
UNNAMED = "Deleted Account"  # what Telegram shows for a speaker without a name
NAME_KEYS = ("from", "actor", "forwarded_from", "saved_from", "inviter", "author")


def recognise(data: object) -> bool:
    """Return whether parsed JSON is a Telegram export."""
    if not isinstance(data, dict):
        return False
    if not isinstance(entries := data.get("messages"), list):
        return isinstance(data.get("chats"), dict)
    return not entries or any("date" in e if isinstance(e, dict) else True for e in entries)


def parse(data: dict[str, Any], place: str) -> Iterator[Chat | UserError]:
    """Yield each chat of an export; a damaged one yields its error, and the others follow."""
    if "chats" not in data:
        yield from _chats(data, place)
        return
    for block in (data[key] for key in ("chats", "left_chats") if data.get(key) is not None):
        chats = block.get("list") if isinstance(block, dict) else None
        if not isinstance(chats, list):
            yield UserError(f"{place}: `chats` has no `list`; export the chats again as JSON")
            continue
        for number, chat in enumerate(chats, 1):
            yield from _chats(chat, f"{place} chat {number}")


def _chats(chat: Any, place: str) -> Iterator[Chat | UserError]:
    """Yield the chat, or one chat per topic of a forum, as people read topics separately."""
    if not isinstance(chat, dict) or not isinstance(chat.get("messages"), list):
        yield UserError(f"{place}: has no list of `messages`; export the chat again as JSON")
        return
    name = str(chat.get("name") or chat.get("type") or "chat").replace("_", " ")
    entries, people = chat["messages"], People()
    topics = _topics(entries)
    try:
        parse = partial(_message, people, topics)
        messages, notes = parse_entries(entries, parse, f"{place} ({name})")
    except UserError as error:
        yield error
        return
    partner = [chat.get("name")] if chat.get("type") == "personal_chat" else []
    for person in [*partner, *(person for entry in entries for person in _names_in(entry))]:
        if isinstance(person, str) and person.strip():
            people.name(None, person)
    for topic in dict.fromkeys(["", *topics.values()]):
        topic_messages = [message for message in messages if message.thread == topic]
        if topic_messages or not topics:
            title = f"{name}: {topic}" if topic else name
            yield Chat(place, title, topic_messages, people=people.all(), notes=notes)
            notes = ()  # they are about all topics: yield them once


def _topics(entries: list[Any]) -> dict[str, str]:
    """Return the topic title by message id, for the start of a topic and all of its replies."""
    topics, titles = {}, People()
    for entry in (entry for entry in entries if isinstance(entry, dict)):
        message_id, replied_to = str(entry.get("id")), str(entry.get("reply_to_message_id"))
        if entry.get("action") == "topic_created":
            topics[message_id] = titles.name(message_id, entry.get("title"))
        elif replied_to in topics:
            topics[message_id] = topics[replied_to]
    return topics


def _message(people: People, topics: dict[str, str], entry: dict[str, Any]) -> Message | None:
    """Return what a person sent; None for a service message or an empty one."""
    if entry.get("type") != "message":
        return None
    parts = [_media(entry), _text(entry.get("text")), _extras(entry)]
    if any(parts) and (source := entry.get("forwarded_from")):
        parts.insert(0, f"[forwarded from {source}]")
    time = datetime.fromisoformat(entry["date"]).replace(tzinfo=None)
    speaker = people.name(entry.get("from_id"), entry.get("from") or UNNAMED)
    return said(time, speaker, *parts, thread=topics.get(str(entry.get("id")), ""))


def _text(text: Any) -> str:
    """Return the plain text of a text, or of a list of texts and entities such as links."""
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
    """Return what an entry has besides text: a poll, a checklist, a contact, a place."""
    if asked := entry.get("poll") or entry.get("todo_list"):
        answers = ", ".join(_text(answer["text"]) for answer in asked.get("answers") or [])
        if "todo_list" in entry:
            return f"{_text(asked['title'])}: {answers}"
        return f"Poll: {_text(asked['question'])} ({answers})"
    if contact := entry.get("contact_information"):
        names = (contact.get("first_name"), contact.get("last_name"))
        return f"Contact: {' '.join(filter(None, names))}"
    return "<location>" if "location_information" in entry else ""


def _names_in(entry: Any) -> list[Any]:
    """Return the names in an entry: of its sender, of members, and of people it mentions."""
    if not isinstance(entry, dict):
        return []
    members, parts = entry.get("members"), entry.get("text")
    names = [entry.get(key) for key in NAME_KEYS]
    names += members if isinstance(members, list) else []
    if isinstance(contact := entry.get("contact_information"), dict):
        names += [contact.get("first_name"), contact.get("last_name")]
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, dict) and part.get("type") == "mention_name":
            names.append(part.get("text"))
    return names
