"""Telegram's `result.json`: one chat or all, text entities, media and service messages."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from chat.anonymize import anonymize
from chat.summarize import cut_at_gaps
from tests.chat.fixtures import errors, notes, read, read_items, turns


def test_odd_messages_and_all_names_in_an_export() -> None:
    (chat,) = read("telegram_odd.json")
    (note,) = notes(read_items("telegram_odd.json"))
    assert note.startswith("telegram_odd.json: messages left out: 2; message 7 ")
    assert [len(part) for part in cut_at_gaps(chat.messages, 6)] == [2, 3, 1]  # one time has a zone
    names = {name for names in chat.people for name in names}
    assert names == {"Marta O’Neil", "Ivo Kern", "Ivko", "Juni", "Lou Park", "Rui", "Costa"}


def test_one_damaged_chat_of_many_is_an_error() -> None:
    found = read_items("telegram_all.json")
    (error,) = errors(found)
    assert error.startswith("telegram_all.json chat 2 (Broken): message 1 cannot be read")
    assert notes(found) == ["telegram_all.json: chats left out because they have no message: 1"]


def export(folder: Path, *entries: Mapping[str, object]) -> Path:
    """Write a group with these messages, numbered from 1."""
    path = folder / "result.json"
    messages = [
        {
            "id": number,
            "type": "message",
            "date": f"2021-03-05T21:{number:02}:00",
            "text": "",
            **entry,
        }
        for number, entry in enumerate(entries, 1)
    ]
    path.write_text(json.dumps({"name": "Ropes", "type": "private_group", "messages": messages}))
    return path


def test_namesakes_are_two_people(tmp_path: Path) -> None:
    """Also two deleted accounts. Without an id, messages with one name are one person's."""
    path = export(
        tmp_path,
        *({"from": "Alex", "from_id": who, "text": who} for who in ("user1", "user2", "user1")),
        *({"from": None, "from_id": who, "text": who} for who in ("user3", "user4")),
        {"from": "Bo", "text": "a"},
        {"from": "Bo", "from_id": "user5", "text": "b"},
    )
    (chat,) = read(path)
    assert [speaker for speaker, _ in turns(chat)] == [
        "Alex", "Alex (2)", "Alex", "Deleted Account", "Deleted Account (2)", "Bo", "Bo",
    ]  # fmt: skip
    assert ("Alex (2)", "Alex") in chat.people
    masked = turns(anonymize(chat, 1))
    assert masked[1] == ("Person 2", "user2") and masked[2][0] == "Person 1"


def test_each_forum_topic_is_a_chat(tmp_path: Path) -> None:
    path = export(
        tmp_path,
        *({"type": "service", "action": "topic_created", "title": "Food"} for _ in range(2)),
        {"from": "Ida", "text": "pizza?", "reply_to_message_id": 1},
        {"from": "Bo", "text": "soup?", "reply_to_message_id": 2},
        {"from": "Ole", "text": "yes", "reply_to_message_id": 3},
        {"from": "Ole", "text": "hello", "reply_to_message_id": 99},
    )
    assert {chat.name: turns(chat) for chat in read(path)} == {
        "Ropes": [("Ole", "hello")],
        "Ropes: Food": [("Ida", "pizza?"), ("Ole", "yes")],
        "Ropes: Food (2)": [("Bo", "soup?")],
    }


def test_a_checklist_and_half_of_an_emoji(tmp_path: Path) -> None:
    tasks = {"title": "Trip", "answers": [{"text": "rope", "id": 1}, {"text": ["lamp"], "id": 2}]}
    path = export(
        tmp_path, {"from": "Ida", "todo_list": tasks}, {"from": "Ole \ud83d", "text": "ok \ud83d"}
    )
    assert turns(read(path)[0]) == [("Ida", "Trip: rope, lamp"), ("Ole \ufffd", "ok \ufffd")]


@pytest.mark.parametrize(("data", "error"), [
    ({"chats": {"about": ""}}, "`chats` has no `list`"),
    ({"chats": {"list": ["no chat"]}}, "chat 1: has no list of `messages`"),
    ({"name": "A", "messages": ["no message"]}, "(A): message 1 cannot be read"),
    ({"name": "A", "messages": []}, "has no message that a person sent"),
    ({"about": "me"}, "has no field `dialogue` (found: about)"),
])  # fmt: skip
def test_other_json(tmp_path: Path, data: object, error: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(data))
    (said,) = errors(read_items(path))
    assert said.startswith(str(path)) and error in said
