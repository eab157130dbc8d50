"""WhatsApp's "Export chat": the `.txt` of Android and of the iPhone.

The parser is ours. Of those on PyPI, whatstk (0.9.1, October 2026) is well kept but GPL-3.0 with
pandas, plotly and seaborn, and takes no name with a colon; chat-miner (0.6.0, January 2025) joins
the lines of a message and brings polars and wordcloud; chat-export (1.1.2) makes web pages of zips.
"""

import re
from collections.abc import Container
from typing import NamedTuple

from eval.chats.chat import Message
from eval.chats.plain import LINE_END, TURN
from eval.chats.whatsapp_dates import Stamp, find_order, find_style, moment, read_start
from eval.chats.whatsapp_words import SYSTEM, clean, is_name, is_system

LOOKED_AT = 20  # lines, to recognise the format
BLANKS = str.maketrans({"\u202f": " ", "\u00a0": " ", "\u2068": "", "\u2069": "", "\ufeff": ""})
EDGES = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e"  # marks of direction around a line or name
MENTION = re.compile("@\u2068([^\u2069\n]+)\u2069")  # @ and a contact's name, between marks
COLON = re.compile(r": |:\s*$")  # the text of a poll or an attachment may be on the next line


class _Entry(NamedTuple):
    stamp: Stamp
    lines: list[str]  # the first is what follows the stamp
    raw: str  # the first with its stamp


def recognise(text: str) -> bool:
    """Whether the first turn starts as a message of WhatsApp does, or most of the first lines.

    One dated line in a dialogue does not make it an export.
    """
    lines = [line for line in _lines(text)[:LOOKED_AT] if line.strip()]
    starts = [read_start(line.lstrip(EDGES)) for line in lines]
    turns = [
        bool(start)
        for line, start in zip(lines, starts, strict=True)
        if TURN.fullmatch(start[1] if start else line)
    ]
    stamped = sum(map(bool, starts))
    return stamped > 0 and (turns[:1] != [False] or 2 * stamped > len(lines))


def parse(text: str) -> tuple[list[Message], tuple[str, ...]]:
    """The messages that people sent, and notes on what was guessed or left out.

    Attachments become SAMSum's placeholders; deleted messages and system lines are left out.
    The text is one that `recognise` knows.
    """
    entries, notes = _entries(text)
    order, note = find_order([entry.stamp for entry in entries])
    notes = [note, *notes] if note else notes
    entries = _rejoin(entries, order)
    long_names = _names_with_colons(entries)
    messages = [_message(entry, order, long_names) for entry in entries]
    return [message for message in messages if message], tuple(notes)


def mentioned(text: str) -> tuple[tuple[str], ...]:
    """The names that messages point to with an @: of people who may never have written."""
    return tuple((name.removeprefix("~").strip(),) for name in dict.fromkeys(MENTION.findall(text)))


def _lines(text: str) -> list[str]:
    return LINE_END.split(text.translate(BLANKS))


def _entries(text: str) -> tuple[list[_Entry], list[str]]:
    """What stands between two stamps of the file's style, and notes on the lines around it."""
    lines = _lines(text)
    starts = [read_start(line.lstrip(EDGES)) for line in lines]
    style = find_style([start[0] for start in starts if start])
    entries: list[_Entry] = []
    ahead = others = 0
    for line, start in zip(lines, starts, strict=True):
        if start and start[0].style == style:
            entries.append(_Entry(start[0], [start[1]], line))
        elif entries:
            entries[-1].lines.append(line)
            others += bool(start)
        else:
            ahead += bool(line.strip())
    said = {
        "lines before the first message, which are left out": ahead,
        "dated lines in another style than the others', which are taken as text": others,
    }
    return entries, [f"{what}: {count}" for what, count in said.items() if count]


def _rejoin(entries: list[_Entry], order: str) -> list[_Entry]:
    """Give lines whose stamp is no date in the file's order back to the message before them."""
    kept: list[_Entry] = []
    for entry in entries:
        if moment(entry.stamp, order) or not kept:
            kept.append(entry)
        else:
            kept[-1].lines.extend([entry.raw, *entry.lines[1:]])
    return kept


def _turn(line: str, long_names: Container[str] = ()) -> tuple[str, str] | None:
    """Name and text of a message's first line; None for what WhatsApp wrote."""
    name, *rest = COLON.split(line, maxsplit=1)
    if not rest or not is_name(name, line):
        return None
    if name not in long_names:
        return name, rest[0]
    turn = _turn(rest[0])
    return turn and (f"{name}: {turn[0]}", turn[1])


def _names_with_colons(entries: list[_Entry]) -> set[str]:
    """Prefixes that are no whole name: `Team`, where every message goes on `Team: Anna: `."""
    rests: dict[str, list[str]] = {}
    for entry in entries:
        turn = _turn(entry.lines[0])
        if turn:
            rests.setdefault(turn[0], []).append(turn[1])
    return {name for name, said in rests.items() if _hold_names(said)}


def _hold_names(rests: list[str]) -> bool:
    """Whether names go on in all these texts, but for system lines.

    So that nobody's `note: milk` becomes a name, two or more must do for twice as many messages.
    """
    found = [turn[0] for rest in rests if (turn := _turn(rest)) and turn[0]]
    names = tuple({*found})
    return 1 < len(names) <= len(found) / 2 and all(
        rest.startswith(names) or SYSTEM.search(rest) for rest in rests
    )


def _message(entry: _Entry, order: str, long_names: set[str]) -> Message | None:
    turn = _turn(entry.lines[0], long_names)
    if not turn:
        return None
    name, text = turn
    whole = "\n".join([text, *entry.lines[1:]])
    if is_system(whole):
        return None
    said = clean(whole)
    name = re.sub(rf"[{EDGES}]", "", name).strip().removeprefix("~").strip()
    return Message(moment(entry.stamp, order), name, said) if said and name else None
