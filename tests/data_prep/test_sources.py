"""Every kind of source gives the same rows."""

import gzip
import tempfile
from pathlib import Path
from typing import Any

import pytest

from data_prep.sources import SPLITS, Source, read_file
from tests.data_prep.corpora import chat, chats, encode, members, write_archive, write_folder

ENDINGS = [".json", ".jsonl", ".csv", ".parquet"]
ENDINGS += [f"{ending}.gz" for ending in ENDINGS]
CORPUS = chats()


def read_all(path: Path) -> dict[str, list[dict[str, Any]]]:
    with Source(str(path)) as source:
        return {split: [row for _, row in source.rows(split)] for split in SPLITS}


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


def test_unpacked_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert sorted(ids) == sorted(row["id"] for row in rows)  # every row exactly once
    assert 280 < len(read["train"]) < 360  # about 80 %
    assert all(20 < len(read[split]) < 60 for split in ("validation", "test"))
    for split, found in read_all(renamed).items():  # a row's split depends only on the row
        assert sorted(r["id"] for r in found) == sorted(r["id"] for r in read[split])


@pytest.mark.parametrize("name", ["valid", "validation", "dev", "Validation"])
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


def test_the_place_of_a_row_includes_the_archive(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "corpus.zip", members(CORPUS))
    with Source(str(path)) as source:
        place, _ = next(source.rows("train"))
    assert place == f"{path}/train.json row 1"
