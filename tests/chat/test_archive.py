"""Archives: what a Mac adds is passed over, and what is too large or too deep is refused."""

import zipfile
from pathlib import Path

import pytest

from chat import chat
from tests.chat.exports import errors, everything, read, turns


def zipped(folder: Path, members: dict[str, str | bytes]) -> Path:
    """A compressed archive with these members."""
    path = folder / "export.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
        for name, text in members.items():
            written.writestr(name, text)
    return path


def test_what_a_mac_adds(tmp_path: Path) -> None:
    dark = b"\x00\x05\x16\x07\xff"
    members: dict[str, str | bytes] = {
        "a/_chat.txt": "Ana: hi",
        "__MACOSX/a/._chat.txt": dark,
        "__MACOSX/b.txt": dark,
    }
    found = everything(zipped(tmp_path, members))
    assert turns(found[0].messages) == [("Ana", "hi")] and len(found) == 1


def test_folders_in_folders(tmp_path: Path) -> None:
    (chat,) = read(zipped(tmp_path, {f"{'a/' * 50}chat.txt": "Ana: hi", f"{'b/' * 600}x.jpg": ""}))
    assert turns(chat.messages) == [("Ana", "hi")]
    deep = zipped(tmp_path, {"chat.txt": "Ana: hi", f"{'a/' * 600}chat.txt": "Ana: hi"})
    said = "has more than 50 folders one in another; unpack it yourself and give the files"
    assert errors(everything(deep)) == [f"{deep}: {said}"]


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MOST_BYTES", 1_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "extract", lambda *_: pytest.fail("it was unpacked"))
    bomb = zipped(tmp_path, {"a.txt": "Ana: hi\n" * 100_000, "b.json": " " * 300_000})
    assert bomb.stat().st_size < 10_000
    said = "holds 1,100,000 bytes of text, more than 1,000,000; give a part of it"
    assert errors(everything(bomb)) == [f"{bomb}: {said}"]


def test_a_large_day_of_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MOST_BYTES", 1_000)
    found = everything("slack")
    assert [chat.name for chat in found if hasattr(chat, "messages")] == ["nora, Sam Okoye"]
    (error,) = errors(found)
    assert error.startswith("slack/general/2024-01-02.json: holds 1,")


def test_a_large_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MOST_BYTES", 1_000)
    path = tmp_path / "chat.txt"
    path.write_text("Ana: hi\n" * 200, "utf-8")
    said = "holds 1,600 bytes of text, more than 1,000; give a part of it"
    assert errors(everything(path)) == [f"{path}: {said}"]
