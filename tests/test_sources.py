"""Every kind of source gives the same rows; every bad one gives one UserError with a mend."""

import gzip
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import py7zr
import pytest

from data_prep.errors import UserError
from data_prep.formats import read_file
from data_prep.sources import SPLITS, Source
from tests.corpora import chat, chats, encode, members, write_archive, write_folder

ENDINGS = [".json", ".jsonl", ".csv", ".parquet"]
ENDINGS += [f"{ending}.gz" for ending in ENDINGS]
CORPUS = chats()


def read_all(path: Path) -> dict[str, list[dict[str, Any]]]:
    with Source(str(path)) as source:
        return {split: [row for _, row in source.rows(split)] for split in SPLITS}


def refusal(path: Path, split: str = "train") -> str:
    """The message with which reading this split ends."""
    with pytest.raises(UserError) as caught, Source(str(path)) as source:
        list(source.rows(split))
    return str(caught.value)


@pytest.mark.parametrize("ending", ENDINGS)
def test_folder(tmp_path: Path, ending: str) -> None:
    assert read_all(write_folder(tmp_path / "corpus", CORPUS, ending)) == CORPUS


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("archive", [".zip", ".7z"])
def test_archive(tmp_path: Path, archive: str, ending: str) -> None:
    path = write_archive(tmp_path / f"corpus{archive}", members(CORPUS, ending))
    assert read_all(path) == CORPUS


@pytest.mark.parametrize("archive", [".zip", ".7z"])
def test_archive_with_an_inner_folder(tmp_path: Path, archive: str) -> None:
    files = {f"samples/{name}": data for name, data in members(CORPUS).items()}
    assert read_all(write_archive(tmp_path / f"corpus{archive}", files)) == CORPUS


def test_nothing_unpacked_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_archive(tmp_path / "corpus.7z", members(CORPUS))
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(unpacked))
    assert read_all(path) == CORPUS
    assert list(unpacked.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_single_file_with_a_split_column(tmp_path: Path, ending: str) -> None:
    names = {"train": "train", "validation": "dev", "test": "test"}
    rows = [{**row, "split": names[split]} for split in SPLITS for row in CORPUS[split]]
    path = tmp_path / f"corpus{ending}"
    path.write_bytes(encode(rows, ending))
    read = read_all(path)
    assert {s: [r["id"] for r in read[s]] for s in SPLITS} == {
        s: [r["id"] for r in CORPUS[s]] for s in SPLITS
    }


def test_single_file_without_a_split_column(tmp_path: Path) -> None:
    rows = [chat(n) for n in range(400)]
    path, renamed = tmp_path / "corpus.csv", tmp_path / "renamed.csv"
    path.write_bytes(encode(rows, ".csv"))
    renamed.write_bytes(encode(reversed(rows), ".csv"))
    read = read_all(path)
    assert read == read_all(path)
    ids = [row["id"] for split in SPLITS for row in read[split]]
    assert sorted(ids) == sorted(row["id"] for row in rows)  # each row once
    assert 280 < len(read["train"]) < 360  # about 80 %
    assert all(20 < len(read[split]) < 60 for split in ("validation", "test"))
    for split, found in read_all(renamed).items():  # a row's split depends on the row alone
        assert sorted(r["id"] for r in found) == sorted(r["id"] for r in read[split])


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Validation"])
def test_names_of_the_validation_split(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, CORPUS)
    (tmp_path / "val.json").rename(tmp_path / f"{name}.json")
    assert read_all(tmp_path) == CORPUS


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    write_folder(tmp_path, CORPUS, ".parquet")
    (tmp_path / "train.parquet").unlink()
    for number, rows in enumerate((CORPUS["train"][:4], CORPUS["train"][4:])):
        shard = tmp_path / f"train-0000{number}-of-00002.parquet"
        shard.write_bytes(encode(rows, ".parquet"))
    assert read_all(tmp_path) == CORPUS


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".json.gz"])
def test_byte_order_mark(tmp_path: Path, ending: str) -> None:
    data = b"\xef\xbb\xbf" + encode(CORPUS["train"], ending.removesuffix(".gz"))
    path = tmp_path / f"train{ending}"
    if ending.endswith(".gz"):
        data = gzip.compress(data)
    path.write_bytes(data)
    assert [row for _, row in read_file(path, path.name)] == CORPUS["train"]


def test_json_file_of_one_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(encode(CORPUS["train"], ".jsonl"))
    assert [row for _, row in read_file(path, "train.json")] == CORPUS["train"]


def test_place_names_file_and_row(tmp_path: Path) -> None:
    write_folder(tmp_path / "corpus", CORPUS)
    with Source(str(tmp_path / "corpus")) as source:
        places = [place for place, _ in source.rows("validation")]
    assert places == [f"{tmp_path}/corpus/val.json row {n}" for n in (1, 2)]


def test_archive_is_named_in_a_row_s_place(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "corpus.zip", members(CORPUS))
    with Source(str(path)) as source:
        place, _ = next(source.rows("train"))
    assert place == f"{path}/train.json row 1"


def test_hashes_of_the_source(tmp_path: Path) -> None:
    write_folder(tmp_path / "corpus", CORPUS)
    with Source(str(tmp_path / "corpus")) as source:
        hashes = source.file_hashes
    files = (tmp_path / "corpus").iterdir()
    assert hashes == {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_two_files_for_one_split(tmp_path: Path) -> None:
    write_folder(tmp_path, CORPUS)
    (tmp_path / "validation.json").write_bytes(encode(CORPUS["validation"], ".json"))
    message = refusal(tmp_path)
    assert "val.json and validation.json" in message
    assert "keep one" in message


@pytest.mark.parametrize("name", ["no_such_folder", "corpus.7z", "./owner/name", "a/b/c.json"])
def test_source_not_found(name: str) -> None:
    message = refusal(Path(name))
    assert f"{Path(name)}" in message
    assert "give a hub id" in message or "set `source` to a folder" in message


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def flip(data: bytes) -> bytes:
    """Other bytes in the middle of the compressed data; header and end stay whole."""
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
    assert f"{path}: cannot be read" in message
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
def test_member_that_points_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, outside: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    name = str(tmp_path / "evil.json") if outside == "absolute" else outside
    path = write_archive(tmp_path / f"corpus{ending}", {**members(CORPUS), name: b"[]"})
    message = refusal(path)
    assert f"{path}: member `{name}` points outside" in message
    assert "refused" in message
    assert list(tmp_path.rglob("*evil.json")) == []


def test_link_in_an_archive_that_points_outside(tmp_path: Path) -> None:
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
def test_row_that_is_no_object(tmp_path: Path, ending: str, row: object, kind: str) -> None:
    path = tmp_path / f"train{ending}"
    path.write_bytes(encode([chat(1), row], ending))
    message = refusal(tmp_path)
    assert f"{path} row 2: is {kind}, not an object" in message
    assert 'must be like {"dialogue": ..., "summary": ...}' in message


@pytest.mark.parametrize(
    "data",
    [b'[{"dialogue": "a"},, {}]', b'[{"dialogue": "a"}', b"", b'[{"dialogue": "a"}] more',
     b"dialogue: a", b'{\n "dialogue": "a"\n}'],
)  # fmt: skip
def test_invalid_json(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(data)
    message = refusal(tmp_path)
    assert f"{path}: cannot be read after row" in message
    assert "JSON" in message
    assert "mend" in message
    assert "b'" not in message  # the reader's bytes, printed raw


@pytest.mark.parametrize(
    "data", [b'{"dialogue": "a"\n', b"[" * 100_000 + b"\n"], ids=["open", "deep"]
)
def test_invalid_jsonl(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(encode([chat(1)], ".jsonl") + data)
    message = refusal(tmp_path)
    assert f"{path}: cannot be read after row 1" in message
    assert "mend" in message


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
    assert "mend" in message


@pytest.mark.parametrize("name", ["corpus.txt", "corpus.txt.gz", "corpus", "corpus.rar"])
def test_unknown_ending(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"Ola: hi")
    message = refusal(path)
    assert f"{path}: unknown ending" in message
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
