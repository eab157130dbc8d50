"""Cuts a chat into parts that a model can take: at silences, then by tokens."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import accumulate, pairwise
from math import ceil

from eval.chats.chat import Message, dialogue_of

FILLED = 0.9  # of the tokens, so that few parts turn out too long after all

Messages = list[Message]


def cut_at_gaps(messages: Messages, hours: float) -> list[Messages]:
    """The conversations of a chat: a new one begins after a silence of more than `hours`.

    Messages without a time, as in plain text, stay with those before them. Within a conversation
    a thread follows its first message.
    """
    times = sorted(message.time for message in messages if message.time)
    gap = timedelta(hours=hours)
    starts = [after for before, after in pairwise(times) if after - before > gap]
    parts: list[Messages] = [[] for _ in range(len(starts) + 1)]
    number = 0
    for message in messages:
        number = bisect_right(starts, message.time) if message.time else number
        parts[number].append(message)
    return [_threads_together(part) for part in parts if part]


def _threads_together(messages: Messages) -> Messages:
    first: dict[str, int] = {}
    for number, message in enumerate(messages):
        if message.thread:
            first.setdefault(message.thread, number)
    order = [first.get(message.thread, number) for number, message in enumerate(messages)]
    return [messages[number] for number in sorted(range(len(messages)), key=order.__getitem__)]


def cut_to_fit(messages: Messages, count: Callable[[str], int], most: int) -> list[Messages]:
    """Parts of like size whose dialogues have `most` tokens at most, cut between messages.

    `count` gives the tokens of a dialogue. A single message that has too many is halved between
    words, and keeps its speaker.
    """
    tokens = count(dialogue_of(messages))
    if tokens <= most:
        return [messages]
    if len(messages) > 1:
        pieces = _shares(messages, ceil(tokens / (FILLED * most)))
    else:
        pieces = _halves(messages[0])
    if not all(pieces):
        return [messages]  # nothing left to cut
    return [part for piece in pieces for part in cut_to_fit(piece, count, most)]


def _shares(messages: Messages, number: int) -> list[Messages]:
    """Two or more shares, `number` where there are as many messages, with about equal text."""
    ends = list(accumulate(len(message.line()) + 1 for message in messages))
    wanted = (bisect_left(ends, ends[-1] * n / number) for n in range(1, number))
    borders = sorted({min(max(1, border), len(messages) - 1) for border in wanted})
    return [messages[a:b] for a, b in pairwise([0, *borders, len(messages)])]


def _halves(message: Message) -> list[Messages]:
    text = message.text
    middle = len(text) // 2
    blank = text.rfind(" ", 1, middle + 1)
    cut = blank if blank > 0 else middle
    pieces = (text[:cut].rstrip(), text[cut:].lstrip())
    return [[replace(message, text=piece)] if piece else [] for piece in pieces]
