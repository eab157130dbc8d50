"""Reading any input: arguments, standard input, files, folders, archives and rows."""

import json
import zipfile
from pathlib import Path

import pytest

from chat import chat
from chat.chat import dialogue_of, parse_plain
from tests.chat.fixtures import FOLDER, clock, errors, notes, read, read_items, turns
from tests.conftest import ROOT

EXPECTED = json.loads((FOLDER.parent / "expected.json").read_text("utf-8"))
WITH_NOTES = {"rows.jsonl", "slack", "slack_bare", "telegram_all.json", "telegram_odd.json",
              "whatsapp_ambiguous.txt", "whatsapp_pasted.txt"}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_each_export(name: str) -> None:
    """Compare time, speaker and text of each message, by the name of the chat."""
    found = {
        one.name: [
            list(row) for row in zip(clock(one), *zip(*turns(one), strict=True), strict=True)
        ]
        for one in read(name)
    }
    assert found == EXPECTED[name]
    assert (len(read_items(name)) > len(found)) is (name in WITH_NOTES)


def test_a_single_dated_line_is_not_an_export() -> None:
    """Not even if it is the first line."""
    text = (FOLDER / "plain_dated.txt").read_text().partition("\n")[2]
    assert turns(read("-", stdin=text.encode())[0])[0] == ("Ana", "when?")


def test_a_pasted_part_of_an_export() -> None:
    """Also if it starts with the end of a message that looks like a turn."""
    text = "note: keys\n31.12.20, 21:15 - Ana: hi\n31.12.20, 21:16 - Bo: yes"
    assert turns(read("-", stdin=text.encode())[0]) == [("Ana", "hi"), ("Bo", "yes")]


@pytest.mark.parametrize("text", ["[Ana] hi: there\nBo: yes", "{Ana} hi: there\nBo: yes"])
def test_text_that_begins_like_json(text: str) -> None:
    (found,) = read_items("-", stdin=text.encode())
    assert turns(found) == [(f"{text[:5]} hi", "there"), ("Bo", "yes")]


def test_a_prepared_dialogue_is_not_changed() -> None:
    """So its prompt and its summary are the same as in eval.run."""
    files = (ROOT / "data_prep/sample").glob("*.jsonl")
    lines = [line for path in files for line in path.read_text("utf-8").splitlines()]
    dialogues = [json.loads(line)["dialogue"] for line in lines]
    assert len(dialogues) == 220
    for dialogue in dialogues:
        assert dialogue_of(parse_plain(dialogue, "row")) == dialogue


@pytest.mark.parametrize("given", ["Ana: hi\nBo: yes", "Ana: hi\\nBo: yes"])
def test_a_dialogue_as_an_argument(given: str) -> None:
    (found,) = read_items(given)
    assert (found.name, turns(found)) == ("", [("Ana", "hi"), ("Bo", "yes")])
    assert turns(read(f"{given} {'long ' * 2000}")[0])[0] == ("Ana", "hi")


@pytest.mark.parametrize("name", ["plain.txt", "whatsapp_ios_gb.txt", "telegram/result.json"])
def test_formats_are_recognised_without_a_file_name(name: str) -> None:
    data = (FOLDER / name).read_bytes()
    for (found,) in (read_items("-", stdin=data), read_items(data.decode("utf-8-sig"))):
        assert turns(found) == turns(read(name)[0])


def test_bad_rows_are_errors_and_the_others_are_read() -> None:
    for found in (
        read_items("rows.jsonl"),
        read_items("-", stdin=(FOLDER / "rows.jsonl").read_bytes()),
    ):
        assert [one.id for one in found if isinstance(one, chat.Chat)] == ["r1", 3, "r6"]
        said = [error.split(":", 1)[1] for error in errors(found)]
        expected = [
            "2: has no field `dialogue` (found: id, chat)", "4: is not JSON (Unterminated string",
            "5: `dialogue` is NoneType, not text",
            "7: is empty", "8: is not an object",
        ]  # fmt: skip
        assert len(said) == len(expected)
        assert all(text.startswith(start) for text, start in zip(said, expected, strict=True))


def test_another_field_and_rows_in_an_array(tmp_path: Path) -> None:
    assert [one.id for one in read("rows.jsonl", field="chat")] == ["r2"]
    path = tmp_path / "rows.json"
    path.write_text('[{"dialogue": "Ana: hi"}, 7]')
    found = read_items(path)
    assert turns(found[0]) == [("Ana", "hi")] and found[0].id is None
    assert errors(found)[0].startswith(f"{path} row 2: is not an object")


def test_a_folder_with_many_formats(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("plain.txt", "prose.txt", "whatsapp_ko.txt", "rows.jsonl"):
        (tmp_path / "b" / name).write_bytes((FOLDER / name).read_bytes())
    (tmp_path / "a.txt").write_text("Ana: hi")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / ".hidden.txt").write_text("Ana: hi")
    found = read_items(tmp_path)
    assert [one.name for one in read(tmp_path)] == ["a", "plain", "r1", "3", "r6", "whatsapp_ko"]
    assert f"{tmp_path}/b/prose.txt: no line is a turn of a dialogue" in errors(found)[0]
    assert f"{tmp_path}/gone.txt: is missing" in errors(found)[-1]
    assert notes(found) == [f"{tmp_path}: files left out because they are not chats: 1"]


@pytest.mark.parametrize(("name", "data", "what", "fix"), [
    ("none.txt", None, "not found", "give a file, a folder"),
    ("empty.txt", b"", "is empty", "give a dialogue with one turn per line"),
    ("prose.txt", b"Nobody spoke.", "no line is a turn", "write each as `Name: text`"),
    ("latin.txt", b"Zo\xeb: hi", "is not UTF-8 (byte 2)", "save it as UTF-8"),
    ("chat.docx", b"a,b", "unknown file extension", "use .txt"),
    ("chat.csv", b"a,b", "no columns for who wrote what", "name them `sender`"),
    ("chat.json", b"{", "is not JSON", "export it again"),
    ("deep.json", b"[" * 100_000, "is not JSON", "export it again"),
    ("rows.jsonl", b"\n\n", "has no message", "give another export"),
    ("export.zip", b"PK\x03\x04 cut", "cannot be unpacked", "fetch it again"),
    ("system.txt", b"31.12.20, 21:15 - Ana hat die Gruppe verlassen",
     "has no message that a person sent", "give another export"),
    ("", None, "has no file that can be read", "use .txt"),
])  # fmt: skip
def test_bad_input_is_one_error_with_a_fix(
    tmp_path: Path, name: str, data: bytes | None, what: str, fix: str
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    (error,) = (str(item) for item in read_items(path))
    assert error.startswith(str(path)) and what in error and fix in error


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_file_cut_within_a_character(encoding: str) -> None:
    data = "31.12.20, 21:15 - Ana: hi\n31.12.20, 21:16 - Bo: 🙂".encode(encoding)[:-1]
    assert turns(read("-", stdin=data)[0]) == [("Ana", "hi"), ("Bo", "\ufffd")]


def zipped(folder: Path, members: dict[str, str | bytes], name: str = "export.zip") -> Path:
    """Write a compressed archive with these members."""
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as written:
        for member, text in members.items():
            written.writestr(member, text)
    return folder / name


def test_a_chat_in_a_whatsapp_zip_is_named_after_the_archive(tmp_path: Path) -> None:
    """Files beside the chat were sent in it, so they are not chats."""
    path = zipped(tmp_path, {
        "00000002-list.txt": "Milk: two", "00000003-data.json": '{"a": 1}',
        "_chat.txt": (FOLDER / "whatsapp_ios_gb.txt").read_bytes(),
        "00000001-PHOTO.jpg": b"\xff\xd8", "../outside.txt": "Ana: hi", "b/c.txt": "Bo: yes",
    }, "WhatsApp Chat - Allotment.zip")  # fmt: skip
    assert [one.name for one in read(path)] == ["Allotment", "c"]
    assert not (tmp_path.parent / "outside.txt").exists()


TELEGRAM = """{"type": "personal_chat", "name": "Ida", "messages": [{"type": "message",
"date": "2021-03-05T21:15:00", "from": "Ida", "text": "hi", "file": "files/list.txt"}]}"""


@pytest.mark.parametrize(("members", "names", "left"), [
    ({"_chat.txt": "Ana: hi", "00000002-list.txt": "Milk: two", "a.json": "{}"}, ["export"], 2),
    ({"WhatsApp Chat with Bo.txt": "Ana: hi", "list.txt": "Milk: two"}, ["Bo"], 1),
    ({"a/result.json": TELEGRAM, "a/files/list.txt": "Milk: two", "a/photos/1.jpg": ""},
     ["Ida"], 1),
])  # fmt: skip
def test_files_sent_in_a_chat_are_not_chats(
    tmp_path: Path, members: dict[str, str | bytes], names: list[str], left: int
) -> None:
    found = read_items(zipped(tmp_path, members))
    assert [one.name for one in found if isinstance(one, chat.Chat)] == names
    assert not errors(found) and notes(found)[-1].endswith(f"because they are not chats: {left}")


def test_a_folder_with_chats_and_a_file_sent_in_one(tmp_path: Path) -> None:
    """A file that the export mentions was sent in it; a media folder is not an error."""
    (tmp_path / "WhatsApp Chat with Bo.txt").write_text(
        "31.12.20, 21:15 - Bo: list.txt (file attached)\n31.12.20, 21:16 - Ana: ok"
    )
    (tmp_path / "list.txt").write_text("Milk: two")
    (tmp_path / "other.txt").write_text("Ana: hi")
    (tmp_path / "media").mkdir()
    (tmp_path / "media/a.jpg").write_text("")
    found = read_items(tmp_path)
    assert [one.name for one in found[:2]] == ["Bo", "other"]
    assert found[2:] == [f"{tmp_path}: files left out because they are not chats: 2"]


def test_telegram_html_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a/files").mkdir(parents=True)
    (tmp_path / "a/messages.html").write_text("<html>")
    (tmp_path / "a/messages2.html").write_text("<html>")
    (tmp_path / "a/files/list.txt").write_text("Milk: two\nEggs: six")
    for given in (tmp_path, tmp_path / "a/messages.html"):
        assert "messages.html: is HTML" in errors(read_items(given))[0]
        assert not read(given) and len(errors(read_items(given))) == 1
        assert "export the chat as JSON" in errors(read_items(given))[0]


def test_a_zip_made_by_macos(tmp_path: Path) -> None:
    dark = b"\x00\x05\x16\x07\xff"
    members = {"a/_chat.txt": b"Ana: hi", "__MACOSX/a/._chat.txt": dark, "__MACOSX/b.txt": dark}
    (found,) = read_items(zipped(tmp_path, {**members}))
    assert turns(found) == [("Ana", "hi")]


def test_nested_folders(tmp_path: Path) -> None:
    (found,) = read(zipped(tmp_path, {f"{'a/' * 50}chat.txt": "Ana: hi", f"{'b/' * 60}x.jpg": ""}))
    assert turns(found) == [("Ana", "hi")]
    deep = zipped(tmp_path, {"chat.txt": "Ana: hi", f"{'a/' * 1200}chat.txt": "Ana: hi"})
    (error,) = errors(read_items(deep))
    assert str(deep) in error and "more than 50 folders" in error


def test_size_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "MAX_BYTES", 1_000)
    path = tmp_path / "chat.txt"
    path.write_text("Ana: hi\n" * 200, "utf-8")
    assert errors(read_items(path))[0].startswith(f"{path}: has 1,600 bytes of text, more than 1")
    assert [one.name for one in read("slack")] == ["nora, Sam Okoye"]
    assert errors(read_items("slack"))[0].startswith("slack/general/2024-01-02.json: has 1,")
    monkeypatch.setattr(zipfile.ZipFile, "extractall", lambda *_: pytest.fail("it was unpacked"))
    bomb = zipped(tmp_path, {"a.txt": "Ana: hi\n" * 100_000, "b.json": " " * 300_000})
    assert bomb.stat().st_size < 10_000
    assert errors(read_items(bomb))[0].startswith(f"{bomb}: has 1,100,000 bytes of text")
