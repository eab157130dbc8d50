"""WhatsApp's "Export chat": the `.txt` of Android and of the iPhone.

The parser is ours. Of those on PyPI, whatstk (0.9.1, October 2026) is well kept but GPL-3.0 with
pandas, plotly and seaborn, and takes no name with a colon; chat-miner (0.6.0, January 2025) joins
the lines of a message and brings polars and wordcloud; chat-export (1.1.2) makes web pages of zips.
"""

import re
from typing import NamedTuple

from eval.chats import whatsapp_words
from eval.chats.chat import Message
from eval.chats.whatsapp_dates import Stamp, find_order, moment, read_start

LOOKED_AT = 20  # lines, to recognise the format
BLANKS = str.maketrans({"\u202f": " ", "\u00a0": " ", "\u2068": "", "\u2069": "", "\ufeff": ""})
EDGES = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e"  # marks of direction around a line or name


class _Entry(NamedTuple):
    stamp: Stamp
    lines: list[str]  # the first is what follows the stamp
    raw: str  # the first with its stamp


def recognise(text: str) -> bool:
    """Whether one of the first lines starts as a message of WhatsApp does."""
    lines = text.translate(BLANKS).splitlines()[:LOOKED_AT]
    return any(read_start(line.lstrip(EDGES)) for line in lines)


def parse(text: str) -> tuple[list[Message], tuple[str, ...]]:
    """The messages that people sent, and notes on what was guessed or left out.

    Attachments become SAMSum's placeholders; deleted messages and system lines are left out.
    """
    entries, ahead = _entries(text)
    order, note = find_order([entry.stamp for entry in entries])
    notes = [note] if note else []
    if ahead:
        notes.append(f"lines before the first message, which are left out: {ahead}")
    entries = _rejoin(entries, order)
    long_names = _names_with_colons(entries)
    messages = [_message(entry, order, long_names) for entry in entries]
    return [message for message in messages if message], tuple(notes)


def _entries(text: str) -> tuple[list[_Entry], int]:
    """What stands between two stamps, and how many lines come before the first."""
    entries: list[_Entry] = []
    ahead = 0
    for line in text.translate(BLANKS).replace("\r\n", "\n").split("\n"):
        start = read_start(line.lstrip(EDGES))
        if start:
            entries.append(_Entry(start[0], [start[1]], line))
        elif entries:
            entries[-1].lines.append(line)
        else:
            ahead += bool(line.strip())
    return entries, ahead


def _rejoin(entries: list[_Entry], order: str) -> list[_Entry]:
    """Give lines whose stamp is no date in the file's order back to the message before them."""
    kept: list[_Entry] = []
    for entry in entries:
        if moment(entry.stamp, order) or not kept:
            kept.append(entry)
        else:
            kept[-1].lines.extend([entry.raw, *entry.lines[1:]])
    return kept


def _names_with_colons(entries: list[_Entry]) -> set[str]:
    """Prefixes that are no whole name: `Team`, where every message goes on `Team: Anna: `.

    So that nobody's `note: milk` becomes a name, few second halves must do for many messages.
    """
    seconds: dict[str, list[str]] = {}
    for entry in entries:
        first, _, rest = entry.lines[0].partition(": ")
        second, colon, _ = rest.partition(": ")
        seconds.setdefault(first, []).append(second if colon else "")
    return {n for n, s in seconds.items() if len(s) > 2 and "" not in s and 2 * len({*s}) <= len(s)}


def _message(entry: _Entry, order: str, long_names: set[str]) -> Message | None:
    first, *more = entry.lines
    name, colon, text = first.partition(": ")
    if not colon and first.rstrip().endswith(":"):  # an attachment or poll on the next line
        name, colon = first.rstrip()[:-1], ":"
    if not colon or whatsapp_words.SYSTEM.search(name):
        return None
    if name in long_names:
        second, _, text = text.partition(": ")
        name = f"{name}: {second}"
    whole = "\n".join([text, *more])
    if whatsapp_words.is_system(whole):
        return None
    said = whatsapp_words.clean(whole)
    name = re.sub(rf"[{EDGES}]", "", name).strip().removeprefix("~").strip()
    return Message(moment(entry.stamp, order), name, said) if said and name else None
