"""Functions that read the invented exports in `exports/`, and a recipe for a tiny model."""

import io
from pathlib import Path
from typing import Any

from chat.chat import Chat, Message
from chat.read import Item, read_all
from data_prep.errors import UserError
from tests.conftest import derived_recipe
from tests.tiny_adapter import save_adapter

FOLDER = Path(__file__).parent / "exports"


def read_items(*inputs: object, field: str = "dialogue", stdin: bytes = b"") -> list[Any]:
    """Return chats, errors and notes in order; files of `exports/` are given by name alone."""
    given = [str(item) for item in inputs]
    names = {path.name for path in FOLDER.iterdir()}
    given = [str(FOLDER / item) if item.split("/")[0] in names else item for item in given]
    return list(read_all(given, field, io.BytesIO(stdin)))


def read(*inputs: object, field: str = "dialogue", stdin: bytes = b"") -> list[Chat]:
    """Return only the chats."""
    items = read_items(*inputs, field=field, stdin=stdin)
    return [item for item in items if isinstance(item, Chat)]


def errors(items: list[Item]) -> list[str]:
    """Return the error messages, without the path of `exports/`."""
    return [str(i).replace(f"{FOLDER}/", "") for i in items if isinstance(i, UserError)]


def notes(items: list[Item]) -> list[str]:
    """Return the notes, without the path of `exports/`."""
    return [i.replace(f"{FOLDER}/", "") for i in items if isinstance(i, str)]


def turns(chat: Chat | list[Message]) -> list[tuple[str, str]]:
    """Return speaker and text of each message."""
    messages = chat.messages if isinstance(chat, Chat) else chat
    return [(message.speaker, message.text) for message in messages]


def clock(chat: Chat) -> list[str]:
    """Return date and time of each message, to the minute; empty if unknown."""
    return [m.time.isoformat(" ", "minutes") if m.time else "" for m in chat.messages]


def tiny_recipe(folder: Path, base_model: Path, sequence_len: int, **decoding: object) -> Path:
    """Write a recipe for a tiny random model, and an adapter with random weights."""
    path = derived_recipe(
        "smollm2_samsum", folder, "tiny", base_model=str(base_model), sequence_len=sequence_len,
        summarization__decoding={"dtype": "float32", **decoding},
    )  # fmt: skip
    save_adapter(base_model, folder / "output")
    return path
