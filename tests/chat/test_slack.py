"""Slack exports, as a folder and as a ZIP: names, mentions, links, threads and bots."""

import json
import shutil
from pathlib import Path

import pytest

from chat.summarize import cut_at_gaps
from tests.chat.fixtures import FOLDER, errors, notes, read, read_items, turns


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A copy of the Slack export."""
    return Path(shutil.copytree(FOLDER / "slack", tmp_path / "slack"))


def test_empty_chats_are_noted_and_people_are_known() -> None:
    assert notes(read_items("slack")) == ["slack: chats left out because they have no message: 1"]
    assert {("nora", "Nora Lind"), ("guest", "Gil Guest")} <= {*read("slack")[1].people}


def test_threads_stay_within_each_conversation() -> None:
    general = [[m.text for m in part] for part in cut_at_gaps(read("slack")[1].messages, 6)]
    assert general[0][:2] == ["@here deploy at 3, ok @Sam Okoye?", "yes, after lunch"]
    assert [len(part) for part in general] == [6, 2]
    (standup,) = read("slack_bare")
    assert [[m.text.split()[0] for m in part] for part in cut_at_gaps(standup.messages, 6)] == [
        ["the", "on", "@Zoë"],
        ["morning,", "fixed,", "new", "agreed", "coffee?", "Deploy"],
    ]


def test_an_export_without_lists_and_a_single_channel(tmp_path: Path) -> None:
    """User names then come from the messages."""
    bare = read_items("slack_bare")
    assert notes(bare) == ["slack_bare: chats left out because they have no message: 1"]
    (alone,) = read_items("slack_bare/standup")
    zipped = shutil.make_archive(str(tmp_path / "standup"), "zip", FOLDER / "slack_bare/standup")
    (unpacked,) = read_items(zipped)
    for chat in (bare[0], alone, unpacked):
        assert chat.name == "standup" and chat.people[0] == ("bo", "Bo Derek", "Bo")
        assert turns(chat)[1] == ("Zoë Weiß", "on it")


def test_folders_that_are_not_from_slack(tmp_path: Path) -> None:
    """Rows in a file named like a Slack day; a channel beside another chat: neither is lost."""
    (tmp_path / "2024-01-02.json").write_text('[{"dialogue": "Ana: hi"}]')
    assert [chat.name for chat in read(tmp_path)] == [f"{tmp_path}/2024-01-02.json row 1"]
    shutil.copytree(FOLDER / "slack_bare/standup", tmp_path / "standup")
    (tmp_path / "2024-01-02.json").rename(tmp_path / "plain.json")
    shutil.copytree(FOLDER / "telegram", tmp_path / "telegram")
    assert [chat.name for chat in read(tmp_path)][1:] == ["standup", "Marta"]


@pytest.mark.parametrize("inside", [".", "slack"])
def test_zip(tmp_path: Path, inside: str) -> None:
    root = FOLDER / "slack" if inside == "." else FOLDER
    made = shutil.make_archive(str(tmp_path / "export"), "zip", root, inside)
    chats = read(made)
    assert [chat.name for chat in chats] == ["nora, Sam Okoye", "#general"]
    assert turns(chats[1]) == turns(read("slack")[1]) and chats[1].place.startswith(made)


@pytest.mark.parametrize(("file", "text", "error", "names"), [
    ("general/2024-01-03.json", "[{", "2024-01-03.json: cannot be read", ["nora, Sam Okoye"]),
    ("general/2024-01-03.json", "{}", "is not a list of objects", ["nora, Sam Okoye"]),
    ("general/2024-01-03.json", '[{"type": "message", "text": "hi", "ts": "1e17"}]',
     "2024-01-03.json: message 1 cannot be read", ["nora, Sam Okoye"]),
    ("channels.json", "[", "slack/channels.json: cannot be read", ["nora, Sam Okoye", "general"]),
    ("users.json", "[null]", "slack/users.json: is not a list of objects", []),
])  # fmt: skip
def test_a_damaged_file(export: Path, file: str, text: str, error: str, names: list[str]) -> None:
    (export / file).write_text(text)
    (said,) = errors(read_items(export))
    assert error in said and [chat.name for chat in read(export)] == names


@pytest.mark.parametrize("odd", ['"ts": "late"', '"ts": "9", "blocks": [{"elements": 5}]'])
def test_an_unreadable_message_is_left_out(export: Path, odd: str) -> None:
    good = '{"type": "message", "text": "hi", "ts": "1704272400", "user": "U1"}'
    (export / "general/2024-01-03.json").write_text(f'[{{"type": "message", {odd}}}, {good}]')
    assert turns(read(export)[1])[-1] == ("nora", "hi")
    assert "2024-01-03.json: messages left out: 1" in notes(read_items(export))[0]


def test_odd_list_entries_lose_no_channel(export: Path) -> None:
    users = '[{"id": "U1", "name": "nora", "profile": "x"}, {"id": "U2", "profile": 1}]'
    (export / "users.json").write_text(users)
    (export / "dms.json").write_text('[{"id": "D1", "members": 5}]')
    assert [(chat.name, len(chat.messages)) for chat in read(export)] == [
        ("D1", 2),
        ("#general", 8),
    ]
    assert read(export)[0].messages[0].speaker == "nora"


def said(user: str, second: int, text: str, **more: object) -> dict[str, object]:
    """Return a message as the API returns it."""
    return {"type": "message", "user": user, "text": text, "ts": f"170418{second:04}.0001", **more}


def test_namesakes_and_unlisted_users_of_an_enterprise_grid(tmp_path: Path) -> None:
    """The account that is still active keeps the plain name."""
    names = {"U1": "Alex", "U2": "Alex", "U3": "Ida"}
    users = [
        {"id": user, "deleted": user == "U1", "profile": {"display_name": name}}
        for user, name in names.items()
    ]
    (tmp_path / "org_users.json").write_text(json.dumps(users))
    (tmp_path / "general").mkdir()
    (tmp_path / "general/2024-01-02.json").write_text(json.dumps([
        said("U1", 1, "a"), said("U2", 2, "hi <@U1>, <@U9>"), said("U9", 3, "b"),
        said("USLACKBOT", 4, "eat"), {"type": "message", "subtype": "channel_canvas_updated"},
    ]))  # fmt: skip
    (chat,) = read_items(tmp_path)
    assert turns(chat) == [
        ("Alex (2)", "a"), ("Alex", "hi @Alex (2), @U9"), ("U9", "b"), ("Slackbot", "eat"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["day", "history", "dump"])
def test_a_conversation_in_a_single_file(tmp_path: Path, kind: str) -> None:
    """The API writes newest first; slackdump puts replies into the message that they answer."""
    first, reply, last = said("U1", 1, "a"), said("U2", 3, "c"), said("U2", 2, "b <@U1>")
    data: object = [first, last, reply]
    if kind == "history":
        data = {"ok": True, "messages": [reply, last, first]}
    if kind == "dump":
        first["slackdump_thread_replies"] = [reply, last]  # `last` is also in the channel
        data = {"channel_id": "C1", "name": "general", "messages": [first, last, "odd"]}
    path = tmp_path / "C1.json"
    path.write_text(json.dumps(data))
    (chat,) = read_items(path)
    assert turns(chat) == [("U1", "a"), ("U2", "b @U1"), ("U2", "c")]
    assert chat.name == ("general" if kind == "dump" else "C1")
    (tmp_path / "users.json").write_text('[{"id": "U1", "profile": {"real_name": "Ida Berg"}}]')
    assert turns(read(tmp_path)[0])[:2] == [("Ida Berg", "a"), ("U2", "b @Ida Berg")]
