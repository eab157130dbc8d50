"""Cuts a chat into parts that a model can take: at silences, then by tokens."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import accumulate

from eval.chats.chat import Message, dialogue_of

Messages = list[Message]


def cut_at_gaps(messages: Messages, hours: float) -> list[Messages]:
    """The conversations of a chat: a new one begins after a silence of more than `hours`.

    Messages without a time, as in plain text, stay with those before them.
    """
    parts: list[Messages] = []
    last = None
    for message in messages:
        silent = message.time and last and message.time - last > timedelta(hours=hours)
        if silent or not parts:
            parts.append([])
        parts[-1].append(message)
        last = message.time or last
    return parts


def cut_to_fit(messages: Messages, fits: Callable[[str], bool]) -> list[Messages]:
    """Parts whose dialogues fit: halved at the border between messages next to the middle.

    A single message that does not fit is halved between words, and keeps its speaker.
    """
    if fits(dialogue_of(messages)):
        return [messages]
    if len(messages) > 1:
        sizes = list(accumulate(len(message.line()) for message in messages))
        border = min(range(1, len(messages)), key=lambda n: abs(2 * sizes[n - 1] - sizes[-1]))
        halves = [messages[:border], messages[border:]]
    else:
        halves = _halves(messages[0])
    if not all(halves):
        return [messages]  # nothing left to cut
    return [part for half in halves for part in cut_to_fit(half, fits)]


def _halves(message: Message) -> list[Messages]:
    text = message.text
    middle = len(text) // 2
    blank = text.rfind(" ", 1, middle + 1)
    cut = blank if blank > 0 else middle
    pieces = (text[:cut].rstrip(), text[cut:].lstrip())
    return [[replace(message, text=piece)] if piece else [] for piece in pieces]
