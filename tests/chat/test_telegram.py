"""Telegram's `result.json`: one chat or all, entities, media, service messages."""

import json
from pathlib import Path

import pytest

from chat.summarize import cut_at_gaps
from tests.chat.fixtures import errors, notes, read, read_items


def test_odd_messages_and_all_names_that_an_export_knows() -> None:
    (chat,) = read("telegram_odd.json")
    (note,) = notes(read_items("telegram_odd.json"))
    assert note.startswith("telegram_odd.json: messages that are left out: 2; message 7 ")
    assert [len(part) for part in cut_at_gaps(chat.messages, 6)] == [2, 3, 1]  # one has a zone
    names = {name for names in chat.people for name in names}
    assert names == {"Marta O’Neil", "Ivo Kern", "Ivko", "Juni", "Lou Park", "Rui", "Costa"}


def test_all_chats_of_which_one_is_damaged() -> None:
    found = read_items("telegram_all.json")
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
