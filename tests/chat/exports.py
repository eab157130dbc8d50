"""Exports of our own invention, and how the tests read them."""

import io
import os
from pathlib import Path

from chat.chat import Chat, Message
from chat.read import read_all
from data_prep.errors import UserError

FOLDER = Path(__file__).parent / "exports"


def read(*inputs: object, field: str = "dialogue", stdin: bytes = b"") -> list[Chat]:
    """The chats alone."""
    return [item for item in everything(*inputs, field=field, stdin=stdin) if is_chat(item)]


def everything(*inputs: object, field: str = "dialogue", stdin: bytes = b"") -> list:
    """Chats, errors and notes, in their order; a fixture is named without its folder."""
    given = [
        str(FOLDER / item) if isinstance(item, str) and os.path.exists(FOLDER / item) else str(item)
        for item in inputs
    ]
    return list(read_all(given, field, io.BytesIO(stdin)))


def is_chat(item: object) -> bool:
    """Whether an item is a chat."""
    return isinstance(item, Chat)


def errors(items: list) -> list[str]:
    """The texts of the errors, without the fixtures' folder."""
    return [str(i).replace(f"{FOLDER}/", "") for i in items if isinstance(i, UserError)]


def notes(items: list) -> list[str]:
    """The notes, without the fixtures' folder."""
    return [i.replace(f"{FOLDER}/", "") for i in items if isinstance(i, str)]


def turns(messages: list[Message]) -> list[tuple[str, str]]:
    """Speaker and text of each message."""
    return [(message.speaker, message.text) for message in messages]


def clock(messages: list[Message]) -> list[str]:
    """Date and time of each message, to the minute."""
    return [message.time.isoformat(" ", "minutes") if message.time else "" for message in messages]
