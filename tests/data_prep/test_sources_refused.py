"""Every bad source raises one UserError that says how to fix it."""

import gzip
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import py7zr
import pytest

from data_prep.errors import UserError
from data_prep.sources import Source
from tests.data_prep.corpora import chat, chats, encode, members, write_archive, write_folder

CORPUS = chats()


def refusal(path: Path, split: str = "train") -> str:
    """Return the error message from reading this split."""
    with pytest.raises(UserError) as caught, Source(str(path)) as source:
        list(source.rows(split))
    return str(caught.value)


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, CORPUS)
    (tmp_path / "validation.json").write_bytes(encode(CORPUS["validation"], ".json"))
    message = refusal(tmp_path)
    assert "val.json and validation.json" in message
    assert "keep one" in message


@pytest.mark.parametrize("name", ["no_such_folder", "corpus.7z", "./owner/name", "a/b/c.json"])
def test_source_not_found(name: str) -> None:
    message = refusal(Path(name))
    assert f"{Path(name)}" in message
    assert "give a Hub id" in message or "set `source` to a folder" in message


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def flip(data: bytes) -> bytes:
    """Flip bytes in the middle of the compressed data; the header and the end stay intact."""
    return data[:60] + bytes(byte ^ 0xFF for byte in data[60:100]) + data[100:]


@pytest.mark.parametrize("damage", [cut, flip, lambda data: b"", lambda data: b"not an archive"])
@pytest.mark.parametrize("ending", [".7z", ".zip"])
def test_damaged_archive(tmp_path: Path, ending: str, damage: Callable[[bytes], bytes]) -> None:
    path = write_archive(tmp_path / f"corpus{ending}", members(chats(train=60)))
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(path)
    assert f"{path}: is damaged" in message
    assert "fetch it again" in message


@pytest.mark.parametrize("damage", [cut, flip, lambda data: b"not packed"])
@pytest.mark.parametrize("ending", [".json.gz", ".csv.gz", ".parquet", ".parquet.gz"])
def test_damaged_file(tmp_path: Path, ending: str, damage: Callable[[bytes], bytes]) -> None:
    write_folder(tmp_path, chats(train=60), ending)
    path = tmp_path / f"train{ending}"
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(tmp_path)
    assert f"{path}: cannot be " in message
    assert "again" in message


def test_archive_with_a_password(tmp_path: Path) -> None:
    path = tmp_path / "corpus.7z"
    with py7zr.SevenZipFile(path, "w", password="tram") as seven:
        seven.writestr(encode(CORPUS["train"], ".json"), "train.json")
    message = refusal(path)
    assert str(path) in message
    assert "password" in message.lower()


@pytest.mark.parametrize("outside", ["../evil.json", "a/../../evil.json", "absolute"])
@pytest.mark.parametrize("ending", [".7z", ".zip"])
def test_archive_member_that_points_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, outside: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    name = str(tmp_path / "evil.json") if outside == "absolute" else outside
    path = write_archive(tmp_path / f"corpus{ending}", {**members(CORPUS), name: b"[]"})
    message = refusal(path)
    assert f"{path}: member `{name}` points outside" in message
    assert "refused" in message
    assert list(tmp_path.rglob("*evil.json")) == []


def test_archive_link_that_points_outside(tmp_path: Path) -> None:
    (tmp_path / "private.json").write_bytes(encode([chat(1)], ".json"))
    (tmp_path / "link.json").symlink_to(tmp_path / "private.json")
    path = tmp_path / "corpus.7z"
    with py7zr.SevenZipFile(path, "w") as seven:
        seven.write(tmp_path / "link.json", "train.json")
    assert str(path) in refusal(path)


@pytest.mark.parametrize(
    ("row", "kind"), [(["a"], "a list"), ("a", "a text"), (None, "null"), (7, "int")]
)
@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_row_that_is_not_an_object(tmp_path: Path, ending: str, row: object, kind: str) -> None:
    path = tmp_path / f"train{ending}"
    path.write_bytes(encode([chat(1), row], ending))
    message = refusal(tmp_path)
    assert f"{path} row 2: is {kind}, not an object" in message
    assert 'must be like {"dialogue": ..., "summary": ...}' in message


@pytest.mark.parametrize(
    "data",
    [b'[{"dialogue": "a"},, {}]', b'[{"dialogue": "a"}', b"", b'[{"dialogue": "a"}] more',
     b"dialogue: a", b'{\n "dialogue": "a"\n'],
)  # fmt: skip
def test_invalid_json(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(data)
    message = refusal(tmp_path)
    assert f"{path}: cannot be read after row" in message
    assert "JSON" in message
    assert "fix" in message
    assert "b'" not in message  # no raw bytes in the message


@pytest.mark.parametrize(
    "data", [b'{"dialogue": "a"\n', b"[" * 100_000 + b"\n"], ids=["open", "deep"]
)
def test_invalid_jsonl(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(encode([chat(1)], ".jsonl") + data)
    message = refusal(tmp_path)
    assert f"{path}: cannot be read after row 1" in message
    assert "fix" in message


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".jsonl.gz"])
def test_not_utf8(tmp_path: Path, ending: str) -> None:
    data = encode([{**chat(1), "dialogue": "Zoë: hi"}], ending.removesuffix(".gz"))
    if ending == ".json":
        data = data.replace(b"\\u00eb", "ë".encode())
    latin = data.replace("ë".encode(), "ë".encode("latin-1"))
    path = tmp_path / f"train{ending}"
    path.write_bytes(gzip.compress(latin) if ending.endswith(".gz") else latin)
    message = refusal(tmp_path)
    assert f"{path}: is not UTF-8" in message
    assert "convert it to UTF-8" in message
    assert "b'" not in message


@pytest.mark.parametrize("line", [b"only one\n", b"a,b,c,d\n", b'r9,"a,b\n'])
def test_csv_row_with_a_wrong_number_of_fields(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(encode([chat(1)], ".csv") + line)
    message = refusal(tmp_path)
    assert f"{path}: cannot be read after row 1" in message
    assert "fix" in message


@pytest.mark.parametrize("name", ["corpus.txt", "corpus.txt.gz", "corpus", "corpus.rar"])
def test_unknown_ending(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"Ola: hi")
    message = refusal(path)
    assert f"{path}: unknown type" in message
    assert ".jsonl" in message


@pytest.mark.parametrize("archive", ["", ".zip", ".7z"])
def test_missing_split(tmp_path: Path, archive: str) -> None:
    some = {split: CORPUS[split] for split in ("train", "validation")}
    path = tmp_path / f"corpus{archive}"
    write_archive(path, members(some)) if archive else write_folder(path, some)
    message = refusal(path, "test")
    assert f"{path}: has no split `test` (found: train, validation)" in message
    assert "name its file test.json" in message


def test_empty_folder(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert f"{tmp_path}: has no split `train` (found: none)" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file(tmp_path: Path) -> None:
    write_folder(tmp_path, CORPUS)
    (tmp_path / "train.json").chmod(0)
    assert str(tmp_path / "train.json") in refusal(tmp_path)
