"""What is given is recognised: arguments, standard input, files, folders, archives, rows."""

import zipfile
from pathlib import Path

import pytest

from chat.chat import dialogue_of, parse_plain
from data_prep.prompt import read_rows
from tests.chat.exports import FOLDER, errors, everything, notes, read, turns
from tests.conftest import ROOT

PLAIN = [
    ("Hana", "did the parcel come?"),
    ("Pete", "yes: two of them"),
    ("", "with a dent, sadly"),
    ("Hana", "http://example.org/claim"),
]


def test_plain_text_keeps_lines_without_a_name() -> None:
    (chat,) = everything("plain.txt")
    assert (chat.name, turns(chat.messages)) == ("plain", PLAIN)


@pytest.mark.parametrize("heading", [True, False])
def test_a_dated_line_makes_no_export(heading: bool) -> None:
    lines = (FOLDER / "plain_dated.txt").read_text().splitlines(keepends=True)
    (chat,) = everything("-", stdin="".join(lines[not heading :]).encode())
    assert turns(chat.messages)[heading:] == [
        ("Ana", "when?"),
        ("Bo", "these dates work"),
        ("", "3/4/24, 10:00 - 12:00"),
        ("", "3/5/24, 10:00 - Bo: fine"),
        ("Ana", "ok"),
    ]


def test_a_piece_of_an_export_is_one(tmp_path: Path) -> None:
    """Where the end of a message before it looks like a turn."""
    path = tmp_path / "cut.txt"
    path.write_text("note: keys\n31.12.20, 21:15 - Ana: hi\n31.12.20, 21:16 - Bo: yes")
    assert turns(read(path)[0].messages) == [("Ana", "hi"), ("Bo", "yes")]


@pytest.mark.parametrize("text", ["[Ana] hi: there\nBo: yes", "{Ana} hi: there\nBo: yes"])
def test_text_that_begins_with_a_bracket(text: str) -> None:
    (chat,) = everything("-", stdin=text.encode())
    assert turns(chat.messages) == [(f"{text[:5]} hi", "there"), ("Bo", "yes")]


def test_a_prepared_dialogue_comes_through_unchanged() -> None:
    """So that its prompt, and its summary, are those of eval.run."""
    rows = [row for path in (ROOT / "data_prep/sample").glob("*.jsonl") for row in read_rows(path)]
    assert len(rows) == 220
    for row in rows:
        assert dialogue_of(parse_plain(row["dialogue"], "row")) == row["dialogue"]


def test_argument() -> None:
    for given in ("Ana: hi\nBo: yes", "Ana: hi\\nBo: yes"):
        (chat,) = everything(given)
        assert (chat.name, turns(chat.messages)) == ("", [("Ana", "hi"), ("Bo", "yes")])
    assert turns(read("Ana: " + "long " * 2000)[0].messages)[0][0] == "Ana"


@pytest.mark.parametrize("name", ["plain.txt", "whatsapp_ios_gb.txt", "telegram/result.json"])
def test_standard_input_and_an_argument_are_recognised_by_their_look(name: str) -> None:
    data = (FOLDER / name).read_bytes()
    for (chat,) in (everything("-", stdin=data), everything(data.decode("utf-8-sig"))):
        assert turns(chat.messages) == turns(read(name)[0].messages)


def test_rows_a_bad_one_is_named_and_the_rest_go_on() -> None:
    for found in (
        everything("rows.jsonl"),
        everything("-", stdin=(FOLDER / "rows.jsonl").read_bytes()),
    ):
        chats = [item for item in found if hasattr(item, "messages")]
        assert [(chat.id, turns(chat.messages)) for chat in chats] == [
            ("r1", [("Edda", "is the bakery open?"), ("Tim", "till six")]),
            (3, [("Ana", "fine"), ("Uwe", "good")]),
        ]
        said = [error.split(":", 1)[1] for error in errors(found)]
        expected = [
            "2: has no field `dialogue` (found: id, chat); name the right one with --dialogue-f",
            "4: is not JSON (Unterminated string", "5: `dialogue` is NoneType, not text",
            "6: holds half of a surrogate pair", "7: is empty; give a dialogue",
            "8: is no object; each row must be like",
        ]  # fmt: skip
        assert len(said) == len(expected)
        assert all(text.startswith(start) for text, start in zip(said, expected, strict=True))


def test_dialogue_field() -> None:
    found = everything("rows.jsonl", field="chat")
    assert [chat.id for chat in read("rows.jsonl", field="chat")] == ["r2"]
    assert "1: has no field `chat` (found: id, dialogue)" in errors(found)[0]


def test_json_array_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"dialogue": "Ana: hi"}, 7]')
    found = everything(path)
    assert turns(found[0].messages) == [("Ana", "hi")] and found[0].id is None
    assert errors(found)[0].startswith(f"{path} row 2: is no object")


def test_folder_of_many_kinds(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("plain.txt", "prose.txt", "whatsapp_ko.txt", "rows.jsonl"):
        (tmp_path / "b" / name).write_bytes((FOLDER / name).read_bytes())
    (tmp_path / "a.txt").write_text("Ana: hi")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / ".hidden.txt").write_text("Ana: hi")
    found = everything(tmp_path)
    assert [chat.name for chat in read(tmp_path)] == ["a", "plain", "r1", "3", "whatsapp_ko"]
    assert f"{tmp_path}/b/prose.txt: no line is a turn of a dialogue" in errors(found)[0]
    assert notes(found) == [f"{tmp_path}: files of other kinds, which are left out: 1"]


def test_zip_of_whatsapp_takes_the_name_of_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "WhatsApp Chat - Allotment.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.write(FOLDER / "whatsapp_ios_gb.txt", "_chat.txt")
        zipped.writestr("00000001-PHOTO.jpg", b"\xff\xd8")
        zipped.writestr("../outside.txt", "Ana: hi")
    assert [chat.name for chat in read(path)] == ["Allotment", "outside"]
    assert not (tmp_path.parent / "outside.txt").exists()


def damaged(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


@pytest.mark.parametrize(("name", "data", "what", "mend"), [
    ("none.txt", None, "not found", "give a file, a folder"),
    ("empty.txt", b"", "is empty", "give a dialogue with a turn a line"),
    ("prose.txt", b"Nobody spoke.", "no line is a turn", "write each as `Name: text`"),
    ("latin.txt", b"Zo\xeb: hi", "is not UTF-8 (byte 2)", "save it as UTF-8"),
    ("chat.csv", b"a,b", "unknown ending", "use .txt"),
    ("chat.json", b"{", "is not JSON", "export it again"),
    ("deep.json", b"[" * 100_000, "is not JSON", "export it again"),
    ("rows.jsonl", b"\n\n", "holds no message", "give another export"),
    ("export.zip", b"PK\x03\x04 cut", "is damaged", "export or fetch it again"),
    ("system.txt", b"31.12.20, 21:15 - Ana hat die Gruppe verlassen",
     "holds no message that a person sent", "give another export"),
])  # fmt: skip
def test_bad_input_is_one_error(
    tmp_path: Path, name: str, data: bytes | None, what: str, mend: str
) -> None:
    given = str(tmp_path / name) if data is None else damaged(tmp_path, name, data)
    found = everything(given)
    (error,) = errors(found)
    assert error.startswith(given) and what in error and mend in error and len(found) == 1


def test_a_file_that_cannot_be_read_among_others(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("nowhere.txt")
    (tmp_path / "b.txt").write_text("Ana: hi")
    found = everything(tmp_path)
    assert [chat.name for chat in read(tmp_path)] == ["b"]
    assert f"{tmp_path}/a.txt: cannot be read (No such file or directory)" in errors(found)[0]


def test_folder_without_a_chat(tmp_path: Path) -> None:
    (error,) = errors(everything(tmp_path))
    assert "holds no file that can be read; use .txt, .json, .jsonl or .zip" in error
