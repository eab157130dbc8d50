"""Telegram's `result.json`: one chat or all, entities, media, service messages."""

import json
from pathlib import Path

import pytest

from chat.summarize import cut_at_gaps
from tests.chat.exports import clock, errors, everything, notes, read, turns


def test_one_chat() -> None:
    (chat,) = everything("telegram")
    assert chat.name == "Marta" and ("Weather Desk",) in chat.people
    assert turns(chat.messages) == [
        ("Marta", "did you read it?"),
        ("Ivo Kern", "yes: https://example.org is great, ask @marta_k"),
        ("Marta", "<file_photo> our roof"),
        ("Marta", "👍"),
        ("Ivo Kern", "<file_other>"),
        ("Ivo Kern", "[forwarded from Weather Desk] storm at six"),
        ("Deleted Account", "line one\nline two"),
        ("Marta", "Poll: Ladder? (yes, no)"),
        ("Marta", "<location>"),
        ("Marta", "Contact: Rui Costa"),
    ]
    assert clock(chat.messages)[0] == "2021-04-01 10:01"


def test_odd_messages_among_others() -> None:
    note, chat = everything("telegram_odd.json")
    assert [text for _, text in turns(chat.messages)] == [
        "tell Ivko and Juni",
        "<file_photo>",
        "marta o'neil never wrote",
        "Poll: Ladder? (yes, no)",
        "Contact: Rui Costa",
        "Juni, lou, Rui: ask Kern",
    ]
    assert notes([note])[0].startswith(
        "telegram_odd.json: messages that are left out: 2; message 7: is no message of Telegram (Va"
    )
    assert [len(part) for part in cut_at_gaps(chat.messages, 6)] == [2, 3, 1]  # one has a zone


def test_all_names_that_an_export_knows() -> None:
    assert read("telegram_odd.json")[0].people == (
        ("Marta O’Neil",), ("Ivo Kern", "Ivko"), ("Juni",), ("Lou Park",),
        ("Rui Costa", "Rui", "Costa"),
    )  # fmt: skip
    marta, *_ = read("telegram")[0].people
    assert marta == ("Marta",)


def test_all_chats_a_damaged_one_aside() -> None:
    found = everything("telegram_all.json")
    assert [chat.name for chat in read("telegram_all.json")] == [
        "Garden", "saved messages", "Old club",
    ]  # fmt: skip
    (error,) = errors(found)
    assert error.startswith("telegram_all.json chat 2 (Broken), message 1: is no message of Tele")
    assert "export the chat again" in error
    assert notes(found) == ["telegram_all.json: chats without a message, which are left out: 1"]


@pytest.mark.parametrize(("data", "error"), [
    ({"chats": {"about": ""}}, "`chats` holds no `list`"),
    ({"chats": {"list": ["no chat"]}}, "chat 1: has no list of `messages`"),
    ({"name": "A", "messages": ["no message"]}, "(A), message 1: is no message of Telegram"),
    ({"name": "A", "messages": []}, "holds no message that a person sent"),
    ({"about": "me"}, "has no field `dialogue` (found: about)"),
])  # fmt: skip
def test_other_json(tmp_path: Path, data: object, error: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(data))
    (said,) = errors(everything(path))
    assert said.startswith(str(path)) and error in said
