"""What every format is read into: a chat of messages, and its text as a model reads it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

# How SAMSum writes an attachment, so that a model tuned on it knows the word.
PHOTO, VIDEO, GIF, OTHER = "<file_photo>", "<file_video>", "<file_gif>", "<file_other>"
ENDINGS = {
    **dict.fromkeys(("jpg", "jpeg", "png", "heic", "bmp"), PHOTO),
    **dict.fromkeys(("mp4", "mov", "3gp", "avi", "mkv", "webm"), VIDEO),
    "gif": GIF,
}


@dataclass(frozen=True)
class Message:
    """One message; `time` as the export gives it, without a zone, or None where it gives none.

    Those of a `thread` are read one after another.
    """

    time: datetime | None
    speaker: str
    text: str
    thread: str = ""

    def line(self) -> str:
        """The turn as a dialogue has it, on one line: `Anna: hi`."""
        text = " ".join(self.text.splitlines()) if "\n" in self.text else self.text
        speaker = " ".join(self.speaker.split())  # an export may hold anything
        return f"{speaker}: {text}" if speaker else text


@dataclass(frozen=True)
class Chat:
    """A chat in the order of the export, which is that of time.

    `place` names file and row for messages to the user; `name` is empty for text that was typed;
    `people` are names that the export knows, all those of a person together; `notes` are what the
    reader had to guess or leave out.
    """

    place: str
    name: str
    messages: list[Message]
    id: str | int | None = None
    people: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = field(default=())


def dialogue_of(messages: Iterable[Message]) -> str:
    """The messages as a dialogue, a turn a line."""
    return "\n".join(message.line() for message in messages)


def speakers_of(messages: Iterable[Message]) -> list[str]:
    """The speakers in the order of their first message."""
    return list(dict.fromkeys(message.speaker for message in messages if message.speaker))


def media_word(file_name: str) -> str:
    """The placeholder for an attached file, by its ending."""
    return ENDINGS.get(file_name.rpartition(".")[2].lower(), OTHER)
