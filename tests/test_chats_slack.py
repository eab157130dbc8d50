"""Slack's export, as a folder and zipped: names, mentions, links, threads, bots."""

import shutil
from pathlib import Path

import pytest

from tests.chats import FOLDER, clock, errors, everything, notes, read, turns

GENERAL = [
    ("nora", "@here deploy at 3, ok @Sam Okoye?"),
    ("Sam Okoye", "yes, after lunch"),  # in the thread, though it was written after the next
    ("Sam Okoye", "see the plan & <notes> in #random"),
    ("build-bot", "build 7 passed"),
    ("guest", "mail me: gil@example.org"),
    ("nora", "<file_photo>"),
    ("Sam Okoye", "it went well"),  # a reply of the next day stays in its day
    ("nora", "ask @Quinn Vale or @U404, https://example.org"),
]


def test_folder() -> None:
    direct, general = read("slack")
    assert direct.name == "nora, Sam Okoye"
    assert turns(direct.messages) == [("nora", "lunch?"), ("Sam Okoye", "in ten")]
    assert general.name == "#general" and turns(general.messages) == GENERAL
    assert clock(general.messages)[0] == "2024-01-02 09:00"
    assert notes(everything("slack")) == ["slack: chats without a message, which are left out: 1"]


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
