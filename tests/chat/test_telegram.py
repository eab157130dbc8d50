"""Telegram's `result.json`: one chat or all, entities, media, service messages."""

import json
from pathlib import Path

import pytest

from chat.summarize import cut_at_gaps
from tests.chat.fixtures import clock, errors, notes, read, read_items, turns


def test_one_chat() -> None:
    (chat,) = read_items("telegram")
    assert chat.name == "Marta" and clock(chat)[0] == "2021-04-01 10:01"
    assert turns(chat) == [
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


def test_odd_messages_among_others() -> None:
    items = read_items("telegram_odd.json")
    (chat,) = read("telegram_odd.json")
    assert [text for _, text in turns(chat)] == [
        "tell Ivko and Juni",
        "<file_photo>",
        "marta o'neil never wrote",
        "Poll: Ladder? (yes, no)",
        "Contact: Rui Costa",
        "Juni, lou, Rui: ask Kern",
    ]
    (note,) = notes(items)
    assert note.startswith("telegram_odd.json: messages that are left out: 2; message 7 ")
    assert [len(part) for part in cut_at_gaps(chat.messages, 6)] == [2, 3, 1]  # one has a zone
    names = {name for names in chat.people for name in names}
    assert names == {"Marta O’Neil", "Ivo Kern", "Ivko", "Juni", "Lou Park", "Rui", "Costa"}


def test_all_chats_of_which_one_is_damaged() -> None:
    found = read_items("telegram_all.json")
    assert [chat.name for chat in read("telegram_all.json")] == [
        "Garden", "saved messages", "Old club",
    ]  # fmt: skip
    (error,) = errors(found)
    assert error.startswith("telegram_all.json chat 2 (Broken): message 1 cannot be read")
    assert notes(found) == ["telegram_all.json: chats without a message, which are left out: 1"]


@pytest.mark.parametrize(("data", "error"), [
    ({"chats": {"about": ""}}, "`chats` holds no `list`"),
    ({"chats": {"list": ["no chat"]}}, "chat 1: has no list of `messages`"),
    ({"name": "A", "messages": ["no message"]}, "(A): message 1 cannot be read"),
    ({"name": "A", "messages": []}, "holds no message that a person sent"),
    ({"about": "me"}, "has no field `dialogue` (found: about)"),
])  # fmt: skip
def test_other_json(tmp_path: Path, data: object, error: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(data))
    (said,) = errors(read_items(path))
    assert said.startswith(str(path)) and error in said
