"""Folders: files that killed processes leave, and training into other people's folders."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chat.read import unpacked
from data_prep.errors import UserError, atomic_file, temporary_folder
from data_prep.prepare import prepare
from data_prep.recipe import load_recipe
from tests.conftest import ROOT, derived_recipe
from tests.data_prep.corpora import OUTPUTS, chats, members, write_archive, write_recipe
from training import run_record


def left(*folders: Path) -> list[Path]:
    """Return our commands' unfinished files and folders, including hidden ones."""
    return [path for folder in folders for path in folder.glob("*.partial")]


def wait_for(true: Callable[[], Any], process: Any = None) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end and (process is None or process.poll() is None)
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_files_of_a_killed_data_prep_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """It is killed while it writes an archive's rows; another archive is then prepared there."""
    unpacking = tmp_path / "tmp"
    unpacking.mkdir()
    source = write_archive(tmp_path / "corpus.zip", members(chats(train=20_000)))
    recipe = load_recipe(write_recipe(tmp_path, source, base_model="none/here"))
    recipe.data_dir.mkdir()
    for name in OUTPUTS:
        (recipe.data_dir / name).write_text("earlier")
    process = subprocess.Popen(
        [sys.executable, "-m", "data_prep", recipe.path, "--overwrite"], cwd=ROOT,
        env={**os.environ, "TMPDIR": str(unpacking)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: any(path.stat().st_size for path in left(recipe.data_dir)), process)
    process.send_signal(number)
    killed = number == signal.SIGKILL
    assert process.wait(60) == (-number if killed else 128 + number)
    assert len(left(recipe.data_dir, unpacking)) == (5 if killed else 0)
    assert all((recipe.data_dir / name).read_text() == "earlier" for name in OUTPUTS)
    monkeypatch.setattr(tempfile, "tempdir", str(unpacking))
    write_archive(source, members(chats()))
    prepare(recipe, overwrite=True)
    assert sorted(path.name for path in recipe.data_dir.iterdir()) == sorted(OUTPUTS)
    assert not list(unpacking.iterdir())


def test_only_partial_files_of_ended_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not files with similar names, not links, not the files of a running process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    digits = "0123456789abcdef" * 2
    (tmp_path / "target").mkdir()
    (tmp_path / "target/mine.txt").write_text("keep")
    for name in (".a.txt.partial", ".a.txt.7.partial", f".b.txt.{digits}.partial",
                 f"a.txt.{digits}.partial", f".a.txt.{digits}.partial.txt"):  # fmt: skip
        (tmp_path / name).write_text("keep")
    for name in ("samsum-lora", "samsum-lora.notes.partial", f"samsum-lora-x.{digits}.partial"):
        (tmp_path / name).mkdir()
    for name in (f".a.txt.{digits}.partial", f"samsum-lora.{digits}.partial"):
        (tmp_path / name).symlink_to("target")
    names = {path.name for path in tmp_path.rglob("*")}
    with atomic_file(tmp_path / "a.txt") as file, temporary_folder() as folder:
        (folder / "corpus.json").write_text("[]")
        file.write("first")
        with atomic_file(tmp_path / "a.txt"), temporary_folder():
            pass
        assert (folder / "corpus.json").exists()
    assert (tmp_path / "a.txt").read_text() == "first"
    assert {path.name for path in tmp_path.rglob("*")} == names | {"a.txt"}


def test_unpacked_chats_of_a_killed_process_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if an archive made its folder read-only."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    archive = write_archive(tmp_path / "export.zip", {"inner/_chat.txt": b"Ann: hi"})
    child = os.fork()
    if not child:
        with unpacked(archive) as folder:
            (folder / "inner").chmod(0o500)
            (folder / "ready").touch()
            time.sleep(60)
        os._exit(0)
    wait_for(lambda: list(tmp_path.glob("samsum-lora.*/ready")))
    with unpacked(archive):
        assert len(left(tmp_path)) == 2  # the other process is running
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with unpacked(archive) as folder:
        assert left(tmp_path) == [folder] and folder.stat().st_mode & 0o077 == 0
    assert left(tmp_path) == []


# ---- training into a folder that is not ours ----

NOT_OURS = {
    "a model": ["README.md", "config.json", "model.safetensors"],
    "a project": [".git/config", "main.py"],
    "a home folder": [".ssh/id_ed25519"],
    "one file": ["debug.log.1"],
    "a downloaded adapter": ["README.md", "adapter_config.json", "adapter_model.safetensors"],
    "another program's checkpoints": ["README.md", "checkpoint-7/weights.ckpt"],
    "another program's record": ["README.md", "run.json"],
}


@pytest.mark.parametrize(
    ("kind", "by"), [*((kind, "name") for kind in NOT_OURS), ("a model", "link")]
)
def test_training_into_someone_elses_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, kind: str, by: str
) -> None:
    """The plugin refuses it before Axolotl writes there; it is called in Axolotl's order."""
    from axolotl.utils.dict import DictDefault

    from training import plugin

    folder = tmp_path / "theirs"
    for name in NOT_OURS[kind]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("keep")
    named = folder
    if by == "link":
        named = tmp_path / "link"
        named.symlink_to(folder)
    path = derived_recipe("smollm2_samsum", tmp_path, "r", output_dir=str(named))
    config = DictDefault({**load_recipe(path).config, "axolotl_config_path": str(path)})
    monkeypatch.setattr(sys, "argv", ["axolotl.cli.train", str(path)])
    for name in ("install_error_hook", "SummarizationPlugin._use_cpu"):  # these change this process
        monkeypatch.setattr(f"training.plugin.{name}", lambda *_: None)
    monkeypatch.setattr(plugin, "machine_problems", lambda *_: [])
    ours = plugin.SummarizationPlugin()
    with pytest.raises((SystemExit, UserError)) as ended:
        ours.register(config)
        run_record.check_same_run(named, {})  # the next check, from `load_datasets`
    said = capsys.readouterr().err + str(ended.value)
    assert str(named) in said and "output_dir" in said
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == set(
        NOT_OURS[kind]
    )
    assert all((folder / name).read_text() == "keep" for name in NOT_OURS[kind])
