"""The names that a chat of Telegram's export knows, beside those who write in it."""

from collections.abc import Iterator
from typing import Any

NAMED = ("from", "actor", "forwarded_from", "saved_from", "inviter", "author")


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
