"""The common form of all chat formats: messages, and the dialogue text that a model reads."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from data_prep.errors import UserError, reading
from data_prep.turns import Turn, as_turns

HEADERS = {"from", "to", "cc", "subject", "date", "sent", "reply-to", "message-id", "received"}
LINE_END = re.compile("\r\n|\r|\n")
TURN = re.compile(r"\s*(?!https?:)([^\s:：<>][^:：<>\n]{0,59}?)\s*(?::(?:[ \t](.*)|)|：\s*(.*))")
TIME_KEY = re.compile(r"(?:^|_)(?:date|time|ts)|time(?:stamp)?(?:_|$)|created|_at$", re.IGNORECASE)

MAX_BYTES = 2 * 10**8  # about two million messages, which take ten times as much memory

# How SAMSum writes an attachment, so that a model tuned on it knows the word.
PHOTO, VIDEO, GIF, OTHER = "<file_photo>", "<file_video>", "<file_gif>", "<file_other>"
ENDINGS = {
    **dict.fromkeys(("jpg", "jpeg", "png", "heic", "bmp"), PHOTO),
    **dict.fromkeys(("mp4", "mov", "3gp", "avi", "mkv", "webm"), VIDEO),
    "gif": GIF,
}

# The errors that code for one app's JSON raises on any other JSON.
UNEXPECTED = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True)
class Message:
    """One message; `time` as in the export, without a time zone, or None if it has none.

    Messages of the same `thread` are read one after another.
    """

    time: datetime | None
    speaker: str
    text: str
    thread: str = ""

    def line(self) -> str:
        """Return the message as one line of a dialogue: `Anna: hi`."""
        speaker = " ".join(self.speaker.split())  # an export may contain anything
        return Turn(speaker, self.text).line()


@dataclass(frozen=True)
class Chat:
    """A chat in the order of the export, which is by time.

    `place` is the file and row, for messages to the user; `name` is empty for typed text; `people`
    are the names in the export, grouped by person; `notes` say what the reader had to guess or
    leave out.
    """

    place: str
    name: str
    messages: list[Message]
    id: str | int | None = None
    people: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


class People:
    """The people of an export, by id: what we call each of them, and all of their names.

    Two people with the same name get different ones: `Alex`, `Alex (2)`.
    """

    def __init__(self) -> None:
        """Start without any people."""
        self._by_id: dict[object, tuple[str, ...]] = {}  # first the name that we use
        self._used_names: set[str] = set()
        self._numbers: dict[str, Iterator[int]] = {}  # the next number for each shared name
        self._without_id: dict[str, None] = {}

    def name(self, person: object, *names: object) -> str:
        """Return the name to use for a person: the first one ever given here.

        Until a name is given, it is the id; without an id (None), the name identifies the person.
        """
        cleaned = dict.fromkeys(" ".join(str(name).split()) for name in names if name)
        cleaned.pop("", None)
        first = next(iter(cleaned), "unknown" if person is None else str(person))
        if person is None:
            self._without_id.setdefault(first)
            return first
        if cleaned and person not in self._by_id:
            numbers = self._numbers.setdefault(first, count(2))
            name = first
            while name in self._used_names:
                name = f"{first} ({next(numbers)})"
            self._used_names.add(name)
            self._by_id[person] = tuple(dict.fromkeys((name, *cleaned)))
        return self._by_id.get(person, (first,))[0]

    def all(self) -> tuple[tuple[str, ...], ...]:
        """Return the names of each person, as in `Chat.people`."""
        without_id = [(name,) for name in self._without_id if name not in self._used_names]
        return (*self._by_id.values(), *without_id)


def said(
    time: datetime | None, speaker: str, *parts: str | None, thread: str = ""
) -> Message | None:
    """Return a message with these parts, such as a file and its caption; None if all are empty."""
    text = " ".join(stripped for part in parts if part and (stripped := part.strip()))
    return Message(time, speaker, text, thread) if text else None


def utc(seconds: float) -> datetime:
    """Return the UTC time of this many seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def dialogue_of(messages: Iterable[Message]) -> str:
    """Return the messages as a dialogue, one turn per line."""
    return "\n".join(message.line() for message in messages)


def speakers_of(messages: Iterable[Message]) -> list[str]:
    """Return the speakers in the order of their first message."""
    return list(dict.fromkeys(message.speaker for message in messages if message.speaker))


def media_word(file_name: str) -> str:
    """Return the placeholder for an attached file, by its extension."""
    return ENDINGS.get(file_name.rpartition(".")[2].lower(), OTHER)


def parse_plain(text: str, place: str) -> list[Message]:
    """Return the turns of a dialogue; lines without a name are kept, blank lines left out.

    Raises UserError if fewer than half of the lines have a name, or if the text begins with a
    header (`Saved on: ...`).
    """
    messages: list[Message] = []
    blank_after = [0]  # number of messages above each blank line
    for line in LINE_END.split(text):
        turn = TURN.fullmatch(line)
        turn_text = (turn[2] or turn[3] or "") if turn else ""
        if turn and turn_text.strip():
            messages.append(Message(None, turn[1], turn_text.rstrip()))
        elif line.strip():
            messages.append(Message(None, "", line.rstrip()))
        elif messages and blank_after[-1] != len(messages):
            blank_after.append(len(messages))
    if not messages:
        raise UserError(f"{place}: is empty; give a dialogue with one turn per line (`Name: text`)")
    speakers = [message.speaker for message in messages if message.speaker]
    if len(HEADERS & {speaker.lower() for speaker in speakers}) > 2:
        raise UserError(f"{place}: is an e-mail; write each turn as `Name: text`")
    turns = len(speakers)
    is_letter = not messages[0].speaker and len({*speakers}) == turns  # no one speaks twice
    if 2 * turns < len(messages) + is_letter:
        share = f"only {turns} of {len(messages)} lines are turns" if turns else "no line is a turn"
        raise UserError(
            f"{place}: {share} of a dialogue; write each as `Name: text`, or give an export that "
            "docs/chats.md lists"
        )
    # Is the first paragraph a header? Yes, if no one in it speaks again, and what follows is a line
    # without a speaker, or a dialogue in one piece in which people do speak again.
    above = messages[: blank_after[1]] if len(blank_after) > 1 else []
    below = messages[len(above) :] if above else []
    names_above = {message.speaker for message in above}
    names_below = [message.speaker for message in below if message.speaker]
    if below and len(names_above - {""}) == len(above) and names_above.isdisjoint(names_below):
        in_one_piece = len([end for end in blank_after if end < len(messages)]) == 2
        if not below[0].speaker or (in_one_piece and len({*names_below}) < len(names_below)):
            raise UserError(
                f"{place}: begins with a header (`{above[0].speaker}`); remove it, or the blank "
                "line under it if a person said that"
            )
    return messages


def parse_turns(value: object, may_have_times: bool = False) -> list[Message] | None:
    """Return the messages of a list of turns; None for other values, or if there is no speaker.

    Turns with times give None unless `may_have_times`: an app's log may be in any order.
    """
    items = value if isinstance(value, list) else []
    keys = {str(key) for item in items if isinstance(item, dict) for key in item}
    if not items or (not may_have_times and any(map(TIME_KEY.search, keys))):
        return None
    turns = as_turns(items) or []
    if not any(turn.speaker for turn in turns):
        return None
    return [Message(None, turn.speaker, turn.text) for turn in turns]


def parse_entries(
    entries: Iterable[Any], parse: Callable[[Any], Message | None], place: str
) -> tuple[list[Message], tuple[str, ...]]:
    """Return the messages of an app's JSON, and a note on entries that `parse` cannot read.

    `parse` returns None for an entry in which no person said anything. Raises UserError if no entry
    can be read.
    """
    messages, problems = [], []
    for number, entry in enumerate(entries, 1):
        try:
            message = parse(entry)
        except UNEXPECTED as error:
            problems.append(f"message {number} cannot be read ({error!r})")
        else:
            messages += [message] if message else []
    if problems and not messages:
        raise UserError(f"{place}: {problems[0]}; export the chat again as JSON")
    return messages, (f"messages left out: {len(problems)}; {problems[0]}",) if problems else ()


def load_json(path: Path, shown: str) -> Any:
    """Return the contents of a JSON file, called `shown` in messages.

    Raises UserError if it is damaged or too large.
    """
    with reading(path, "export or unpack it again", shown=shown):
        check_size(path.stat().st_size, shown)
        return json.loads(path.read_text("utf-8-sig"))


def check_size(size: int, shown: object) -> None:
    """Raise UserError if text of this many bytes would take too much memory."""
    if size > MAX_BYTES:
        raise UserError(
            f"{shown}: has {size:,} bytes of text, more than {MAX_BYTES:,}; give a part of it"
        )
