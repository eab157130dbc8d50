"""Slack's export, as a folder and zipped: names, mentions, links, threads, bots."""

import shutil
from pathlib import Path

import pytest

from chat.summarize import cut_at_gaps
from tests.chat.exports import FOLDER, clock, errors, everything, notes, read, turns

GENERAL = [
    ("nora", "@here deploy at 3, ok @Sam Okoye?"),
    ("Sam Okoye", "see the plan & <notes> in #random"),
    ("Sam Okoye", "yes, after lunch"),
    ("build-bot", "build 7 passed"),
    ("guest", "mail me: gil@example.org"),
    ("nora", "<file_photo>"),
    ("Sam Okoye", "it went well"),  # a reply, of the next day
    ("nora", "ask @Quinn Vale or @U404, https://example.org"),
]


def test_folder() -> None:
    direct, general = read("slack")
    assert direct.name == "nora, Sam Okoye"
    assert turns(direct.messages) == [("nora", "lunch?"), ("Sam Okoye", "in ten")]
    assert general.name == "#general" and turns(general.messages) == GENERAL
    assert clock(general.messages)[0] == "2024-01-02 09:00"
    assert notes(everything("slack")) == ["slack: chats without a message, which are left out: 1"]
    assert {("nora", "Nora Lind"), ("guest", "Gil Guest")} <= {*general.people}


def test_threads_within_each_conversation() -> None:
    general = cut_at_gaps(read("slack")[1].messages, 6)
    assert turns(general[0])[:3] == [GENERAL[0], GENERAL[2], GENERAL[1]]
    assert turns(general[1]) == GENERAL[6:]
    (standup,) = read("slack_bare")
    assert [[m.text.split()[0] for m in part] for part in cut_at_gaps(standup.messages, 6)] == [
        ["the", "on", "@Zoë"],
        ["morning,", "fixed,", "new", "agreed", "coffee?", "Deploy"],
    ]


def test_an_export_without_its_lists_and_a_channel_alone(tmp_path: Path) -> None:
    """Their users are known from the messages."""
    found = everything("slack_bare")
    assert notes(found) == ["slack_bare: chats without a message, which are left out: 1"]
    (alone,) = everything("slack_bare/standup")
    zipped = shutil.make_archive(str(tmp_path / "standup"), "zip", FOLDER / "slack_bare/standup")
    (unpacked,) = everything(zipped)
    for chat in (found[0], alone, unpacked):
        assert chat.name == "standup" and chat.people[0] == ("bo", "Bo Derek", "Bo")
        assert turns(chat.messages)[1] == ("Zoë Weiß", "on it")


def test_a_folder_that_is_none_of_slack(tmp_path: Path) -> None:
    """A diary, and another chat beside a channel, which must not be lost."""
    (tmp_path / "2024-01-02.json").write_text('[{"dialogue": "Ana: hi"}]')
    assert [chat.name for chat in read(tmp_path)] == [f"{tmp_path}/2024-01-02.json row 1"]
    shutil.copytree(FOLDER / "slack_bare/standup", tmp_path / "standup")
    (tmp_path / "2024-01-02.json").rename(tmp_path / "plain.json")
    shutil.copytree(FOLDER / "telegram", tmp_path / "telegram")
    assert [chat.name for chat in read(tmp_path)][1:] == ["standup", "Marta"]


def test_text_that_stands_in_blocks_alone() -> None:
    (chat,) = read("slack_bare")
    assert turns(chat.messages)[2] == ("bo", "@Zoë Weiß see run 7 & <log> :eyes:\ntests\nlint")
    assert turns(chat.messages)[-1] == ("ci", "Deploy\n\nby @Zoë Weiß > *done*\ntook 4 min")


@pytest.mark.parametrize("inside", [".", "slack"])
def test_zip(tmp_path: Path, inside: str) -> None:
    root = FOLDER / "slack" if inside == "." else FOLDER
    made = shutil.make_archive(str(tmp_path / "export"), "zip", root, inside)
    chats = read(made)
    assert [chat.name for chat in chats] == ["nora, Sam Okoye", "#general"]
    assert turns(chats[1].messages) == GENERAL
    assert chats[1].place.startswith(made)


@pytest.mark.parametrize(("file", "text", "error"), [
    ("general/2024-01-03.json", "[{", "slack/general/2024-01-03.json: cannot be read"),
    ("general/2024-01-03.json", "{}", "slack/general/2024-01-03.json: is no list of objects"),
    ("general/2024-01-03.json", '[{"ts": "late"}]', "2024-01-03.json: holds what is no message"),
    ("general/2024-01-03.json", '[{"type": "message", "text": "hi", "ts": "1e17"}]',
     "slack/general/2024-01-03.json: holds what is no message of Slack"),
    ("general/2024-01-03.json", '[{"type": "message", "blocks": [{"elements": 5}], "ts": "1"}]',
     "slack/general/2024-01-03.json: holds what is no message of Slack"),
])  # fmt: skip
def test_a_damaged_channel_among_others(tmp_path: Path, file: str, text: str, error: str) -> None:
    folder = shutil.copytree(FOLDER / "slack", tmp_path / "slack")
    (folder / file).write_text(text)
    found = everything(folder)
    assert [chat.name for chat in read(folder)] == ["nora, Sam Okoye"]
    assert error in errors(found)[0] and len(errors(found)) == 1


def test_a_damaged_list_of_users(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER / "slack", tmp_path / "slack")
    (folder / "users.json").write_text("[null]")
    (error,) = errors(everything(folder))
    assert "slack/users.json: is no list of objects; export or unpack it again" in error


@pytest.mark.parametrize(("file", "text", "error"), [
    ("users.json", '[{"id": "U1", "name": "nora", "profile": "x"}, {"id": "U2", "profile": 1}]',
     "slack/users.json: entry 1 is none of Slack's"),
    ("dms.json", '[{"id": "D1", "members": 5}]', "slack/dms.json: entry 1 is none of Slack's"),
    ("channels.json", "[", "slack/channels.json: cannot be read"),
])  # fmt: skip
def test_an_odd_list_costs_no_channel(tmp_path: Path, file: str, text: str, error: str) -> None:
    folder = shutil.copytree(FOLDER / "slack", tmp_path / "slack")
    (folder / file).write_text(text)
    found = everything(folder)
    assert error in errors(found)[0] and len(errors(found)) == 1
    assert [len(chat.messages) for chat in read(folder)] == [2, 8]
    assert read(folder)[0].messages[0].speaker == "nora"
