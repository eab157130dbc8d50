"""Attacks on results: swapped files, outputs that are inputs, and other git repositories."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep import prepare as preparing
from data_prep.__main__ import main as data_prep
from data_prep.errors import UserError, atomic_file, atomic_files, run_cli
from data_prep.recipe import load_recipe
from data_prep.settings import Decoding
from eval import compare, rate, run, score, signature
from tests.conftest import derived_recipe
from tests.data_prep.corpora import (
    chats,
    encode,
    error_line,
    members,
    outputs,
    recipe_for,
    write_archive,
    write_folder,
    write_recipe,
)


def refused(
    main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: Any, *flags: object
) -> str:
    """Return the one line in which a command ends, with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, flags)])
    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    assert ended.value.code == 2
    return error_line(capsys.readouterr().err)


# ---- the signature ----

LOADED = (  # files that transformers and PEFT may read from a model's folder
    "config.json", "generation_config.json", "model.safetensors.index.json", "model.safetensors",
    "model-00002-of-00002.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "pytorch_model-00001-of-00002.bin", "consolidated.00.pt", "model-q4.gguf", "adapter_model.bin",
    "adapter_config.json", "modeling_own.py", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "tokenizer.model", "qwen.tiktoken", "chat_template.jinja", "chat_template.json",
    "additional_chat_templates/rag.jinja",
)  # fmt: skip


@pytest.mark.parametrize("place", ["base_model", "tokenizer_config"])
@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_key_and_signature_cover_every_file_that_is_loaded(
    tmp_path: Path, weights: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is added, replaced by one of the same size and time, or removed."""
    monkeypatch.setattr(signature, "template_hash", lambda *_, **__: None)  # as if unknown
    model = tmp_path / "model"
    (model / "additional_chat_templates").mkdir(parents=True)
    (model / weights).write_bytes(b"weights")
    (model / "config.json").write_bytes(b"{}")
    folders = {"base_model": "none/here", place: str(model)}
    recipe = load_recipe(derived_recipe("smollm2_samsum", tmp_path, "key", **folders))

    def seen() -> tuple[str, str]:
        key = signature.generation_key(recipe, "base", Decoding(), "data", None)
        fields = {"metric": "rouge", **signature.generation_fields(key, {})}
        return key.model_dump_json(), signature.line(fields)

    first = seen()
    for name in LOADED:
        if place == "tokenizer_config" and name.endswith(".safetensors"):
            continue  # it contains no tokenizer
        file = model / name
        before = file.read_bytes() if file.exists() else None
        found = []
        for content in (b"one way", b"another"):
            file.write_bytes(content)
            os.utime(file, (1, 1))
            found.append(seen())
        file.unlink()
        found.append(seen()) if before else None
        if before is not None:
            file.write_bytes(before)
        for which in (0, 1):  # key, line
            distinct = {one[which] for one in found}
            assert len(distinct) == len(found) and (before or first[which] not in distinct), name
        assert seen() == first
    for name in ("README.md", ".cache", "merge_proof.json", "debug.log"):  # no loader reads these
        (model / name).write_bytes(b"notes")
        assert seen() == first


@pytest.mark.parametrize(
    "more",
    [{"tokens": ["<x>"]}, {"added_tokens_overrides": {5: "<x>"}}, {"eot_tokens": ["<|im_end|>"]}],
)
def test_the_key_covers_every_tokenizer_setting(tmp_path: Path, more: dict[str, Any]) -> None:
    more["base_model"] = "none/here"
    keys = [
        signature.generation_key(
            load_recipe(derived_recipe("smollm2_samsum", tmp_path, "key", **overrides)),
            "base", Decoding(), "data", None,
        ).prompt_hash
        for overrides in ({"base_model": "none/here"}, more)
    ]  # fmt: skip
    assert keys[0] != keys[1]


def git(folder: Path, *flags: str) -> str:
    """Run git with a user's name and return its output."""
    settings = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    done = subprocess.run(
        ["git", "-C", folder, *settings, *flags], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def hostile_repository(folder: Path) -> Path:
    """Make a repository that runs a program on `git describe`; return the file that it creates."""
    mark, program = folder / "executed", folder / "program"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    (folder / ".git/hooks/post-index-change").symlink_to(program)
    git(folder, "config", "core.fsmonitor", str(program))
    git(folder, "describe", "--always", "--dirty")
    assert mark.exists(), "the attack must work on git itself"
    mark.unlink()
    return mark


@pytest.mark.parametrize("by", ["folder", "environment"])
def test_the_commit_is_ours_even_inside_another_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    own, mark = signature.commit(), hostile_repository(tmp_path)
    if by == "folder":
        monkeypatch.chdir(tmp_path)
    else:  # as in that repository's hooks
        monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
        monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / ".git/index"))
    assert signature.commit() == own and not mark.exists()


@pytest.mark.parametrize(
    ("kind", "is_ours"),
    [("installed", False), ("copied", False), ("broken", False), ("own", True)],
)
def test_code_inside_another_repository_has_a_version_instead_of_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_ours: bool
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/code.py").touch()
    if kind == "own":
        (tmp_path / "pyproject.toml").write_text('name = "samsum-lora"\n')
    elif kind == "copied":  # our packages beside another project's file
        (tmp_path / "pyproject.toml").write_text('name = "other"\n')
    mark = hostile_repository(tmp_path)
    root = tmp_path / "lib" if kind in ("installed", "broken") else tmp_path
    if kind == "broken":
        (root / ".git").mkdir()
        (root / "pyproject.toml").write_text('name = "samsum-lora"\n')
    monkeypatch.setattr(signature, "ROOT", root)
    found, short = signature.commit(), git(tmp_path, "rev-parse", "--short", "HEAD")
    mark.unlink(missing_ok=True)
    assert (found.removesuffix("-dirty") == short) is is_ours
    assert is_ours or found == "unknown" or found.startswith("v")
    signature.commit()
    assert not mark.exists()


# ---- sources and prepared rows that change while they are read ----


def swapped(file: Path, other: bytes) -> None:
    file.rename(file.with_suffix(".aside"))
    file.write_bytes(other)


def put_back(file: Path, _: bytes) -> None:
    file.with_suffix(".aside").replace(file)


def rewritten(file: Path, other: bytes) -> None:
    times = file.stat().st_mtime_ns
    file.write_bytes(other)
    os.utime(file, ns=(times, times))


def removed(file: Path, _: bytes) -> None:
    file.unlink()


SWAPS: dict[str, dict[str, Callable[[Path, bytes], None]]] = {
    "replaced": {"validation": swapped},
    "replaced and put back": {"test": swapped, "train": put_back},
    "rewritten": {"test": rewritten},
    "removed": {"train": removed},
}


@pytest.mark.parametrize("kind", ["file", "folder", "archive"])
@pytest.mark.parametrize("swap", SWAPS)
def test_a_source_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, swap: str, kind: str
) -> None:
    """At the start of a split. Unchecked, the manifest would list old hashes for new rows."""
    corpus, others = chats(), chats(train=9)
    if kind == "folder":
        source = write_folder(tmp_path / "corpus", corpus)
        file, new = source / "train.json", encode(others["train"], ".json")
    elif kind == "archive":
        source = file = write_archive(tmp_path / "corpus.zip", members(corpus))
        new = write_archive(tmp_path / "other.zip", members(others)).read_bytes()
    else:
        source = file = tmp_path / "corpus.json"
        rows, more = (
            [{**row, "split": split} for split, part in c.items() for row in part]
            for c in (corpus, others)
        )
        new = encode(more, ".json")
        file.write_bytes(encode(rows, ".json"))
    recipe = load_recipe(write_recipe(tmp_path, source, base_model="none/here"))
    preparing.prepare(recipe)
    before, content = outputs(recipe.data_dir), file.read_bytes()
    write_split = preparing._Preparation._write_split

    def slow(self: Any, split: str, out: Any) -> None:
        if split in SWAPS[swap]:
            SWAPS[swap][split](file, new)
        write_split(self, split, out)

    with monkeypatch.context() as patch:
        patch.setattr(preparing._Preparation, "_write_split", slow)
        line = refused(data_prep, patch, capsys, recipe.path)
    assert file.name in line and outputs(recipe.data_dir) == before
    file.write_bytes(content)
    preparing.prepare(recipe)  # the fix: the same command again
    assert outputs(recipe.data_dir) == before


def test_prepared_rows_that_change_while_they_are_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    recipe = recipe_for(tmp_path, chats())
    preparing.prepare(recipe)
    read = run.read_examples

    def slow(path: Path) -> Any:
        path.write_text(path.read_text("utf-8").replace("tram", "taxi"), "utf-8")
        return read(path)

    monkeypatch.setattr(run, "read_examples", slow)
    flags = (recipe.path, "--models", "base", "--output", tmp_path / "out")
    line = refused(run.main, monkeypatch, capsys, *flags)
    assert "test.jsonl: was replaced while it was read" in line and not (tmp_path / "out").exists()


# ---- outputs that cannot be replaced, or are inputs ----


def in_the_way(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
        (path / "mine.txt").write_text("keep")
    elif kind == "device":
        path.symlink_to("/dev/null")
    elif kind == "link":
        (path.parent / "mine.txt").write_text("keep")
        path.symlink_to("mine.txt")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")


def state(folder: Path) -> dict[str, Any]:
    """Return all entries below a folder: the content of files, the kind of others."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        if path.is_file() and not path.is_symlink()
        else (path.lstat().st_mode, path.is_symlink() and os.readlink(path))
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("kind", ["folder", "device", "link", "pipe", "dangling link"])
@pytest.mark.parametrize("name", ["test.jsonl", "train.jsonl", "manifest.json"])
def test_data_prep_replaces_all_its_files_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str, kind: str
) -> None:
    source = write_folder(tmp_path / "corpus", chats())
    recipe = load_recipe(write_recipe(tmp_path, source, base_model="none/here"))
    recipe.data_dir.mkdir()
    for file in ("test.jsonl", "validation.jsonl", "train.jsonl", "manifest.json"):
        (recipe.data_dir / file).write_text("earlier")
    in_the_way(recipe.data_dir / name, kind)
    before = state(tmp_path)
    line = refused(data_prep, monkeypatch, capsys, recipe.path, "--overwrite")
    assert str(recipe.data_dir / name) in line and "Earlier files are untouched" in line
    assert state(tmp_path) == before


@pytest.mark.parametrize("name", ["scores.json", "report.html", "predictions.base.jsonl"])
def test_an_evaluation_writes_all_its_files_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str
) -> None:
    recipe, folder = recipe_for(tmp_path, chats()), tmp_path / "out"
    preparing.prepare(recipe)
    folder.mkdir()
    (folder / ".writable").write_text("a user's file")
    (folder / name).mkdir()
    before = state(tmp_path)
    flags = (recipe.path, "--models", "base", "--output", folder)
    assert str(folder / name) in refused(run.main, monkeypatch, capsys, *flags)
    assert state(tmp_path) == before
    (folder / name).rmdir()
    (folder / "report.html").write_text("<p>A user's own site")
    assert "report.html: was not written by eval.run" in refused(
        run.main, monkeypatch, capsys, *flags
    )


def test_a_folder_that_appears_in_place_of_an_output(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("earlier")
    with pytest.raises(UserError, match="b: is not a plain file"), \
            atomic_files(tmp_path, "a", "b") as files:  # fmt: skip
        files["a"].write("new")
        in_the_way(tmp_path / "b", "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "a").read_text() == "earlier"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everything")
def test_a_write_protected_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("earlier")
    (tmp_path / "a").chmod(0o400)
    with pytest.raises(UserError, match="write-protected"), atomic_file(tmp_path / "a"):
        pass


def spelled(path: Path, how: str) -> Path:
    """Return another path to the same file."""
    other = path.with_name(f"other-{path.name}")
    if how == "dots":
        return path.parent / ".." / path.parent.name / path.name
    if how == "link":
        other.symlink_to(path.name)
    elif how == "hard link":
        other.hardlink_to(path)
    elif how == "folder link":
        folder = path.parent.with_name("linked")
        folder.symlink_to(path.parent)
        return folder / path.name
    return path if how == "plain" else other


COMMANDS: dict[str, tuple[Callable[[], None], list[str]]] = {
    "score, predictions": (score.main, ["--predictions", "two.jsonl", "{}", "--output", "{out}"]),
    "score, references": (
        score.main, ["--predictions", "two.jsonl", "--references", "{}", "--output", "{out}"]),
    "compare, the page": (compare.main, ["two.jsonl", "it={}", "--output", "{out}"]),
    "compare, a table": (compare.main, ["two.jsonl", "{}", "--latex", "{out}"]),
    "rate, the sheet": (
        rate.main, ["sheet", "two.jsonl", "{}", "--overwrite", "--output", "{out}"]),
}  # fmt: skip


@pytest.mark.parametrize("how", ["plain", "dots", "link", "hard link", "folder link"])
@pytest.mark.parametrize("case", COMMANDS)
def test_an_output_that_is_an_input_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, case: str, how: str
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    rows = [{"id": "1", "prediction": "tram", "reference": "bus", "dialogue": "A: hi"}]
    for name in ("one.jsonl", "two.jsonl"):
        (folder / name).write_bytes(encode(rows, ".jsonl"))
    out = spelled(folder / "one.jsonl", how)
    main, flags = COMMANDS[case]
    before = state(folder)
    line = refused(main, monkeypatch, capsys, *(f.format("one.jsonl", out=out) for f in flags))
    assert f"{out}: is also an input" in line and state(folder) == before


def test_outputs_that_are_other_files_of_the_inputs_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A key of predictions, a sheet, its key, and one path for two outputs."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": "1", "prediction": "tram", "reference": "bus", "dialogue": "A: hi"}]
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).write_bytes(encode(rows, ".jsonl"))
    (tmp_path / ".one.key.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["rate", "sheet", "one.jsonl", "two.jsonl"])
    rate.main()
    before = state(tmp_path)
    for main, flags, named in (
        (score.main, ["--predictions", "one.jsonl", "--output", ".one.key.json"], ".one.key.json"),
        (compare.main, ["one.jsonl", "two.jsonl", "--csv", ".one.key.json"], ".one.key.json"),
        (rate.main, ["read", "ratings.csv", "--output", "ratings.csv"], "ratings.csv"),
        (rate.main, ["read", "ratings.csv", "--output", "./ratings.key.json"], "ratings.key.json"),
        (compare.main, ["one.jsonl", "two.jsonl", "--csv", "x.csv", "--latex", "../" +
                        f"{tmp_path.name}/x.csv"], "x.csv: is given for two outputs"),
        (compare.main, ["one.jsonl", "two.jsonl", "--latex", "."], "is not a plain file"),
    ):  # fmt: skip
        assert named in refused(main, monkeypatch, capsys, *flags)
    assert state(tmp_path) == before


def test_weights_in_a_subfolder_that_an_index_names_are_hashed(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    index = {"weight_map": {"a": "parts/one.safetensors", "b": "../none.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = set()
    for content in (b"one way", b"another"):
        (tmp_path / "parts/one.safetensors").write_bytes(content)
        found.add(signature._model_hash(str(tmp_path), None))
    assert len(found) == 2


def test_an_output_may_have_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".json")
    with atomic_file(path) as file:
        file.write("{}")
    assert [path] == list(tmp_path.iterdir())


def test_two_processes_with_one_id_may_write_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in two containers on a shared volume: the last one to finish wins, with a whole file."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    with atomic_file(tmp_path / "a") as first:
        first.write("first")
        first.flush()
        with atomic_file(tmp_path / "a") as second:
            second.write("second, longer")
        assert (tmp_path / "a").read_text() == "second, longer"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "first"}
