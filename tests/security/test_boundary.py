"""Attacks on the commands' input: each ends in one line that names the file, with exit code 2.

Readers have no code for these cases: `run_cli` and `reading` in data_prep/errors.py handle them.
"""

import gzip
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from datasets import Dataset, DatasetDict

from data_prep import formats, turns
from data_prep.errors import UserError
from data_prep.sources import Source
from eval.predictions import read_record
from eval.results import _history
from tests.conftest import ROOT, run_module
from training.preflight import Report, foreign_code

TEXT = (ROOT / "recipes/smollm2_samsum.yml").read_text("utf-8")
ROWS = '{"dialogue": "A: hi", "summary": "A greets."}\n'
ESCAPE = "\x1b[2J\x1b]0;owned\x07"


def recipe(folder: Path, source: object = ROOT / "data_prep/sample", **more: object) -> list[str]:
    """Write a recipe for a source, with more keys; return the command's name and arguments."""
    config = yaml.safe_load(TEXT)
    config["datasets"][0]["path"] = str(folder / "rows/train.jsonl")
    config["test_datasets"][0]["path"] = str(folder / "rows/validation.jsonl")
    config["summarization"]["source"] = str(source)
    path = folder / "recipe.yml"
    path.write_text(yaml.safe_dump({**config, **more}), "utf-8")
    return ["data_prep", str(path)]


def written(folder: Path, text: str | bytes, name: str = "recipe.yml") -> list[str]:
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return ["data_prep", str(path)]


def source(folder: Path, text: str | bytes, name: str = "rows.jsonl") -> list[str]:
    written(folder, text, name)
    return recipe(folder, folder / name)


def fifo(folder: Path, name: str) -> Path:
    os.mkfifo(folder / name)
    return folder / name


def linked(folder: Path, to: str, name: str) -> Path:
    (folder / name).symlink_to(to)
    return folder / name


def zip_bomb(folder: Path) -> list[str]:
    with zipfile.ZipFile(folder / "rows.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("train.jsonl", ROWS)
    data = (folder / "rows.zip").read_bytes()
    size, claimed = len(ROWS).to_bytes(4, "little"), (2**32 - 2).to_bytes(4, "little")
    huge = data.replace(size, claimed)
    assert data.count(size) == 2
    with zipfile.ZipFile(folder / "many.zip", "w") as packed:
        packed.writestr("x", huge)
    path = folder / "rows.zip"
    path.write_bytes(huge)
    return recipe(folder, path)


def outside(folder: Path) -> list[str]:
    Dataset.from_list([{"dialogue": "A: hi", "summary": "x"}]).save_to_disk(folder / "saved")
    state = folder / "saved/state.json"
    name = "../../private.arrow"
    state.write_text(state.read_text().replace("data-00000-of-00001.arrow", name), "utf-8")
    return recipe(folder, folder / "saved")


def parent(folder: Path) -> list[str]:
    Dataset.from_list([{"dialogue": "A: hi", "summary": "x"}]).save_to_disk(folder / "saved")
    (folder / "saved/inner").mkdir()
    (folder / "saved/inner/dataset_dict.json").write_text('{"splits": [".."]}', "utf-8")
    return recipe(folder, folder / "saved/inner")


def gz(folder: Path, name: str, start: bytes, piece: bytes, times: int) -> list[str]:
    """Write a gzipped source of `start` and `times` pieces; return the command's arguments."""
    with gzip.open(folder / name, "wb", compresslevel=1) as file:
        file.write(start)
        for _ in range(times):
            file.write(piece)
    return recipe(folder, folder / name)


def score(folder: Path, text: str | bytes, name: str = "p.jsonl") -> list[str]:
    return ["eval.score", "--predictions", written(folder, text, name)[1]]


def chat(folder: Path, text: str | bytes, name: str = "chat.json") -> list[str]:
    return ["chat.summarize", "--model", "base", recipe(folder)[1], written(folder, text, name)[1]]


BOMB = "summarization:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)
DEEP = 200_000
MB = bytes(10**6).replace(b"\0", b"x")

ATTACKS: dict[str, tuple[Callable[[Path], list[str]], list[str]]] = {
    # recipes
    "NUL in a recipe": (lambda f: written(f, TEXT + "x: \0\n"), ["recipe.yml", "YAML"]),
    "escape sequence in a value": (
        lambda f: recipe(f, bf16=f"{ESCAPE}"), ["recipe.yml", "bf16"]),
    "NUL in a path": (lambda f: recipe(f, "rows\0.jsonl"), ["recipe.yml:", "source", "\\x00"]),
    "surrogate in a path": (
        lambda f: written(f, TEXT.replace("data_prep/sample", '"\\ud800"')), ["\\ud800"]),
    "alias bomb": (lambda f: written(f, BOMB), ["recipe.yml", "alias"]),
    "alias bomb under a free-form key": (
        lambda f: written(f, TEXT + BOMB.replace("summarization", "tokenizer_kwargs")),
        ["recipe.yml", "alias"]),
    "merge bomb": (lambda f: written(f, MERGES), ["recipe.yml", "alias"]),
    "block that contains itself": (lambda f: written(f, "a: &a [*a]\n"), ["recipe.yml:1", "YAML"]),
    "deep YAML": (lambda f: written(f, "a: " + "[" * 90_000), ["recipe.yml", "valid YAML"]),
    "many keys": (
        lambda f: written(f, "".join(f"k{n}: 1\n" for n in range(5000))), ["recipe.yml: has"]),
    "large recipe": (lambda f: written(f, b"# " + MB), ["recipe.yml: has 1.0 MB"]),
    "recipe is a pipe": (lambda f: ["data_prep", str(fifo(f, "r.yml"))], ["r.yml: is a pipe"]),
    "recipe is a device": (
        lambda f: ["data_prep", str(linked(f, "/dev/zero", "r.yml"))], ["r.yml: is a pipe or"]),
    "recipe is a folder": (lambda f: ["data_prep", str(f)], ["is a folder; give a file"]),
    # sources
    "source is a pipe": (lambda f: recipe(f, fifo(f, "s.jsonl")), ["s.jsonl: is a pipe"]),
    "source is a device": (
        lambda f: recipe(f, linked(f, "/dev/zero", "s.jsonl")), ["s.jsonl: is a pipe or a device"]),
    "endless line": (lambda f: gz(f, "s.jsonl.gz", b'{"a": "', MB, 12), ["s.jsonl.gz", "10 MB"]),
    "endless text in an array": (
        lambda f: gz(f, "s.json.gz", b'[{"a": "', MB, 12), ["s.json.gz", "10 MB"]),
    "endless line of CSV": (
        lambda f: gz(f, "s.csv.gz", b"dialogue,summary\n", MB, 12), ["s.csv.gz", "10 MB"]),
    "endless header": (lambda f: gz(f, "s.csv.gz", b"dialogue,", MB, 12), ["s.csv.gz", "10 MB"]),
    "endless spaces": (
        lambda f: gz(f, "s.jsonl.gz", b"", b" " * 10**6, 12), ["s.jsonl.gz", "10 MB"]),
    "deep array": (lambda f: source(f, "[" * DEEP, "s.json"), ["s.json", "deep"]),
    "deep object": (lambda f: source(f, '{"a":' * DEEP, "s.json"), ["s.json", "deep"]),
    "deep row": (lambda f: source(f, ROWS + '{"a":' + "[" * DEEP), ["rows.jsonl", "row 1"]),
    "deep text of a turn": (
        lambda f: source(f, json.dumps({"dialogue": "[" * DEEP, "summary": "x", "split": "train"})),
        ["rows.jsonl"]),
    "number of a million digits": (
        lambda f: source(f, '{"dialogue": 1' + "0" * 10**6 + "}\n"), ["rows.jsonl"]),
    "100,000 spaces in a turn": (
        lambda f: source(f, json.dumps({"dialogue": "A: hi" + " " * 10**5 + "x", "summary": 3})),
        ["rows.jsonl"]),
    "zip that claims 4 GB": (zip_bomb, ["rows.zip"]),
    "saved data set that names a file outside": (outside, ["state.json refers to a file outs"]),
    "saved data set that names its parent folder": (parent, ["dataset_dict.json refers to a file"]),
    "surrogate in an id": (
        lambda f: source(f, "".join(
            f'{{"id": "\\ud800{n}", "split": "{split}", {ROWS[1:]}'
            for n, split in enumerate(["test", "validation", "train"]))),
        ["rows.jsonl", "surrogate"]),
    "surrogate in a key": (
        lambda f: source(f, '{"\\ud800": 1, "split": "test"}'), ["row 1", "\\ud800"]),
    "escape sequence in a column name": (
        lambda f: source(f, json.dumps({ESCAPE: 1, "split": "test"})), ["\\u001b[2J"]),
    "Parquet noise": (lambda f: source(f, b"PAR1" + MB + b"PAR1", "s.parquet"), ["s.parquet"]),
    # predictions
    "predictions are a pipe": (
        lambda f: ["eval.score", "--predictions", str(fifo(f, "p.txt"))], ["p.txt: is a pipe"]),
    "predictions are a device": (
        lambda f: ["eval.score", "--predictions", str(linked(f, "/dev/zero", "p.txt"))],
        ["p.txt: is a pipe or a device"]),
    "predictions in Latin-1": (lambda f: score(f, b"\xe9t\xe9", "p.txt"), ["p.txt: is not UTF-8"]),
    "predictions that are null": (lambda f: score(f, "null"), ["p.jsonl"]),
    "deep prediction": (lambda f: score(f, "[" * DEEP), ["p.jsonl"]),
    "surrogate in a file name": (lambda f: score(f, ROWS, "p\udce9.jsonl"), ["p\\udce9"]),
    # chats
    "chat is a pipe": (
        lambda f: [*chat(f, "")[:-1], str(fifo(f, "c.txt"))], ["c.txt: is a pipe"]),
    "chat is a device": (
        lambda f: [*chat(f, "")[:-1], str(linked(f, "/dev/zero", "c.txt"))],
        ["c.txt: is a pipe or a device"]),
    "deep chat": (lambda f: chat(f, "[" * DEEP), ["chat.json", "not JSON"]),
    "deep Telegram": (
        lambda f: chat(f, '{"type": "personal_chat", "messages": ' + "[" * DEEP), ["chat.json"]),
    "time out of range": (
        lambda f: chat(f, json.dumps({"name": "A", "type": "personal_chat", "id": 1, "messages": [
            {"id": 1, "type": "message", "date_unixtime": "9" * 30, "from": "A", "text": "x"}]})),
        ["chat.json"]),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_ends_in_one_line(attack: str, tmp_path: Path) -> None:
    make, words = ATTACKS[attack]
    module, *args = make(tmp_path)
    before = files(tmp_path)
    done = run_module(module.replace("data_prep", "data_prep.__main__"), *args)
    out, err = done.stdout, done.stderr
    assert done.returncode == 2, (out, err)
    line = err.strip().splitlines()[-1]
    assert "error: " in line and all(word in line for word in words), line
    assert "Traceback" not in err and "\x1b" not in out + err and len(line) < 1500, line[:3000]
    assert before == files(tmp_path)


def test_all_files_of_a_saved_data_set_are_hashed(tmp_path: Path) -> None:
    """Also files behind links or with other names; a file replaced during loading is an error."""
    table, saved = Dataset.from_list([{"dialogue": "A: hi", "summary": "x"}]), tmp_path / "saved"
    DatasetDict({"train": table, "test": table}).save_to_disk(saved)
    (saved / "train").rename(tmp_path / "other")
    linked(saved, "../other", "train")
    arrow, state = "data-00000-of-00001.arrow", saved / "test/state.json"
    (saved / "test" / arrow).rename(saved / "test/_data.arrow")
    state.write_text(state.read_text().replace(arrow, "_data.arrow"), "utf-8")
    with Source(str(saved)) as found:
        assert {f"train/{arrow}", "test/_data.arrow"} < {*found.file_hashes}
        assert len(list(found.rows("train"))) == len(list(found.rows("test"))) == 1
        found.check_unchanged()

    def load(folder: Path) -> object:
        (saved / "test/_data.arrow").write_bytes((tmp_path / "other" / arrow).read_bytes())
        return plain(folder)

    plain = datasets.load_from_disk
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="was changed or"):
        patch.setattr(datasets, "load_from_disk", load)
        with Source(str(saved)) as found:
            found.check_unchanged()


def test_gzipped_files_do_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "MAX_UNPACKED", 10**7)
    for name, start in (("s.parquet.gz", b"PAR1"), ("s.json.gz", b"\xff\xfe")):
        gz(tmp_path, name, start, MB, 24)
        with pytest.raises(UserError, match=f"{name}: .* GB when it is unpacked"):
            list(formats.read_file(tmp_path / name, name))


def test_deeply_nested_turns_are_read() -> None:
    value: object = "Anna: hi"
    for _ in range(5000):
        value = [{"text": [None, {"name": value}]}]
    assert turns.plain([value, "", "Ben: yo"]) == "Anna: hi Ben: yo"


def files(folder: Path) -> dict[Path, int]:
    return {p: p.lstat().st_mtime_ns for p in folder.rglob("*") if not p.is_dir()}


def program(body: str, *argv: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose `main` is the code `body`, in its own process."""
    code = f"from data_prep.errors import *\ndef main():\n    {body}\nrun_cli(main)"
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import json; json.loads('[1, 2')", b"cannot be read (Expecting"),
        ("open('/nonexistent/x')", b"/nonexistent/x: is missing; "),
        ("[0] * 10**18", b"not enough memory"),
        ("f = lambda: f(); f()", b"nested too deeply"),
        ("{}['key']", b"KeyError: 'key'"),
        (
            "path = Path('README.md'); int(path.read_text()[:3])",
            b"README.md: cannot be read (invalid literal",
        ),
        ("raise UserError('a\\x1b[2J\\nb')", b"error: a\\u001b[2J b"),
    ],
)
def test_any_exception_ends_in_one_line(body: str, words: bytes) -> None:
    done = program(body)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert done.stderr.count(b"\n") == 1 and b"Traceback" not in done.stderr
    debug = program(body, "--debug")
    assert debug.returncode == 2 and b"Traceback" in debug.stderr and words in debug.stderr


def test_characters_that_the_terminal_lacks_are_escaped() -> None:
    done = program("print('\u2013 \u00e9')", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\u2013 \\xe9\n", b"")


def test_printed_control_characters_are_escaped_except_colours() -> None:
    done = program("print('\\x1b[2J\\x1b]0;x\\x07 \\x1b[31mred\\x1b[0m \\u202e')")
    assert done.stdout == b"\\u001b[2J\\u001b]0;x\\u0007 \x1b[31mred\x1b[0m \\u202e\n"


def test_a_closed_pipe_is_not_an_error() -> None:
    late = "lambda: (time.sleep(0.5), print(1))"  # when `true` has ended
    body = f"import time; from data_prep.errors import run_cli; run_cli({late})"
    line = f"{sys.executable} -c '{body}' | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stderr) == (141, b"")


def test_without_a_temporary_folder_the_error_has_a_fix() -> None:
    body = "import tempfile as t; t.tempdir = None; t._candidate_tempdir_list = list; t.mkdtemp()"
    done = program(body)
    assert done.returncode == 2 and b"set TMPDIR" in done.stderr


def test_sigterm_runs_the_clean_up(tmp_path: Path) -> None:
    left = tmp_path / "left"
    body = (
        f"import signal\n    try: signal.raise_signal(15)\n    finally: Path({str(left)!r}).touch()"
    )
    assert program(body).returncode == 143 and left.exists()


@pytest.mark.parametrize("read", [
    lambda folder: read_record(folder / "predictions.base.jsonl"),
    lambda folder: _history(folder / "trainer_state.json"),
])  # fmt: skip
def test_records_that_are_pipes(tmp_path: Path, read: Callable[[Path], object]) -> None:
    for name in (".predictions.base.key.json", "trainer_state.json"):
        fifo(tmp_path, name)
    with pytest.raises(UserError, match="is a pipe or a device"):
        read(tmp_path)


def test_preflight_escapes_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.say("model", "\x1b[32mready\x1b[0m\r")
    report.show()
    assert capsys.readouterr().out == "model   \\u001b[32mready\\u001b[0m\\u000d\n"


@pytest.mark.parametrize("config", [
    {"use_kernels": True}, {"trainer_cls": "a.B"}, {"trl": {"reward_funcs": ["a.b"]}},
    {"trust_remote_code": True}, {"plugins": ["a.B"]}, {"attn_implementation": "a/b"},
])  # fmt: skip
def test_preflight_lists_the_code_that_a_recipe_runs(config: dict[str, Any]) -> None:
    assert len([*foreign_code(config)]) == 1 and not [*foreign_code({})]
