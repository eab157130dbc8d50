"""Chats are cut at silences and to fit, and nothing is lost on the way."""

from dataclasses import replace
from datetime import datetime, timedelta

from chat.chat import Message, dialogue_of
from chat.summarize import cut_at_gaps, cut_to_fit

START = datetime(2021, 5, 1, 9)


def messages(*hours: float | None) -> list[Message]:
    return [
        Message(None if h is None else START + timedelta(hours=h), "Ana", f"at {h}") for h in hours
    ]


def test_a_silence_longer_than_the_gap_begins_a_part() -> None:
    chat = messages(0, 1, 7, 14, 30)
    assert [len(part) for part in cut_at_gaps(chat, 6)] == [3, 1, 1]
    assert [len(part) for part in cut_at_gaps(chat, 5.5)] == [2, 1, 1, 1]
    assert cut_at_gaps(chat, 100) == [chat] and cut_at_gaps([], 6) == []


def test_the_time_decides_and_not_the_order() -> None:
    a, late, b, c, later, d = messages(0, 22, 1, 2, 23, 22.5)
    assert cut_at_gaps([a, late, b, c, later, d], 6) == [[a, b, c], [late, later, d]]


def test_threads_are_together_in_each_part() -> None:
    first, b, late, c, d, late_again = (
        replace(message, thread=thread)
        for message, thread in zip(
            messages(0, 1, 22, 22.1, 22.2, 22.3), ("a", "b", "a", "c", "", "a"), strict=True
        )
    )
    answer = replace(first, text="yes", thread="a")
    assert cut_at_gaps([first, b, answer, late, c, d, late_again], 6) == [
        [first, answer, b], [late, late_again, c, d],
    ]  # fmt: skip


def test_messages_without_a_time_stay_where_they_are() -> None:
    assert [len(part) for part in cut_at_gaps(messages(None, None), 6)] == [2]
    assert [len(part) for part in cut_at_gaps(messages(0, None, 9), 6)] == [2, 1]


def test_parts_fit_and_hold_every_message_in_order() -> None:
    chat = [Message(None, f"P{n % 3}", "word " * (n % 17)) for n in range(200)]
    parts = cut_to_fit(chat, len, 500)
    assert [message for part in parts for message in part] == chat
    assert all(len(dialogue_of(part)) <= 500 for part in parts)
    assert len(parts) < 1.3 * len(dialogue_of(chat)) / 500
    assert cut_to_fit(chat, len, 10**6) == [chat]


def test_a_message_too_long_is_cut_between_words() -> None:
    long = Message(START, "Ana", " ".join(f"word{n}" for n in range(100)))
    parts = cut_to_fit([long], len, 120)
    pieces = [message for part in parts for message in part]
    assert {(piece.speaker, piece.time) for piece in pieces} == {("Ana", START)}
    assert " ".join(piece.text for piece in pieces) == long.text
    blob = cut_to_fit([Message(None, "Ana", "x" * 1000)], len, 100)
    assert "".join(part[0].text for part in blob) == "x" * 1000


def test_what_cannot_be_cut_any_further_stays() -> None:
    assert cut_to_fit([Message(None, "Ana", "x")], len, 1) == [[Message(None, "Ana", "x")]]
