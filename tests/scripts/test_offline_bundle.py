"""A bundle for a machine without a network: making, damaging, unpacking and installing it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from data_prep.errors import UserError
from scripts.offline_bundle import (
    checkout,
    files_of,
    installed_there,
    part_size,
    resolve,
    trimmed,
    write,
)
from scripts.unpack_bundle import CODE
from tests.conftest import ROOT, command

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
KIB = 1 << 10

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git repository here")


def wheel_in(folder: Path) -> Path:
    """Write a wheel of two files and metadata, like one from the registry."""
    file, info = "greet-1.0-py3-none-any.whl", "greet-1.0.dist-info"
    members = {
        "greet/__init__.py": "WORD = 'hello'\n",
        "greet/large/table.txt": "0" * 5000,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*members, f"{info}/RECORD"))
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**members, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    return folder / file


def make(tmp_path: Path, name: str = "bundle", smallest: bool = False) -> Path:
    """Bundle the code, a wheel and the sample as data, in parts of 200 KiB."""
    cache, bundle, work = tmp_path / "cache", tmp_path / name, tmp_path / f"{name}.work"
    wheel = wheel_in(cache)
    work.mkdir()
    contents = {
        "packages": [trimmed(wheel, ["greet/large/"], work, smallest)],
        "code": files_of(checkout(work / CODE), CODE),
        "data": files_of(ROOT / "data_prep/sample", f"{CODE}/data/sample"),
    }
    bundle.mkdir()
    write(bundle, HERE, contents, 200 * KIB, smallest)
    return bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("bundle"))


def unpack(bundle: Path, target: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    """Unpack with this Python and without a registry for pip."""
    env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    call = [sys.executable, str(bundle / "unpack.py"), str(target), "--no-verify", *flags]
    return subprocess.run(call, env=env, capture_output=True, text=True)


def test_a_bundle_is_unpacked_and_installed_with_its_commit(bundle: Path, tmp_path: Path) -> None:
    done = unpack(bundle, tmp_path / "node")
    assert done.returncode == 0, done.stderr
    code, python = tmp_path / "node" / CODE, tmp_path / "node/venv/bin/python"
    ask = "import greet, torch, data_prep; print(greet.WORD, greet.__file__, data_prep.__file__)"
    env = {"PATH": os.environ["PATH"]}  # and no PYTHONPATH
    asked = subprocess.run(
        [python, "-c", ask], capture_output=True, text=True, env=env, cwd=tmp_path
    )
    word, greet, data_prep = asked.stdout.split()
    assert word == "hello" and greet.startswith(str(tmp_path / "node/venv"))
    assert data_prep == str(code / "data_prep/__init__.py")
    sample = (ROOT / "data_prep/sample/train.jsonl").read_bytes()
    assert (code / "data/sample/train.jsonl").read_bytes() == sample
    git = ["git", "-C", str(code), "-c", f"safe.directory={code}"]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    status = subprocess.run([*git, "status", "--short"], capture_output=True, text=True).stdout
    assert head.strip() == json.loads((bundle / "manifest.json").read_text())["commit"]
    assert status in ("", "?? data/\n")  # the commit's .gitignore may list data/
    sourced = (tmp_path / "node/env.sh").read_text("utf-8")
    assert f"cd {code}" in sourced and "PIP_NO_INDEX=1" in sourced


def test_a_bundle_contains_no_path_of_this_machine(bundle: Path) -> None:
    names = sorted(path.name for path in bundle.iterdir())
    assert {"code.001", "data.000", "manifest.json", "packages.000", "unpack.py"} < {*names}
    assert not any(str(ROOT).encode() in (bundle / name).read_bytes() for name in names)


def test_the_smallest_bundle_has_the_same_contents(bundle: Path, tmp_path: Path) -> None:
    small = make(tmp_path, "small", smallest=True)
    size = sum(path.stat().st_size for path in small.glob("*.0*"))
    assert size < 0.7 * sum(path.stat().st_size for path in bundle.glob("*.0*"))
    assert unpack(small, tmp_path / "small-node").returncode == 0
    assert unpack(bundle, tmp_path / "node", "--only", "code").returncode == 0
    for path in (tmp_path / "node" / CODE / "data_prep").rglob("*.py"):
        other = tmp_path / "small-node" / path.relative_to(tmp_path / "node")
        assert path.read_bytes() == other.read_bytes()


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    folder.mkdir()
    for path in bundle.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_damaged_and_missing_parts_are_listed_before_anything_is_written(
    copied: Path, tmp_path: Path
) -> None:
    flipped = bytearray((copied / "code.001").read_bytes())
    flipped[1000] ^= 1
    (copied / "code.001").write_bytes(flipped)
    (copied / "code.002").unlink()
    done = unpack(copied, tmp_path / "node")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "code.001 is damaged (204800 bytes), code.002 is missing" in done.stderr
    assert not (tmp_path / "node").exists()
    (copied / "manifest.json").write_text("{", "utf-8")
    done = unpack(copied, tmp_path / "node")
    assert done.returncode == 2 and "manifest.json: missing or damaged" in done.stderr


def test_contents_may_be_unpacked_one_after_the_other(copied: Path, tmp_path: Path) -> None:
    last = copied / "data.000"
    later = last.read_bytes()
    last.unlink()
    assert unpack(copied, tmp_path / "node", "--only", "packages").returncode == 0
    marker = tmp_path / "node/venv/marker"
    marker.touch()
    done = unpack(copied, tmp_path / "node")
    assert done.returncode == 2 and f"{last.name} is missing" in done.stderr
    last.write_bytes(later)
    done = unpack(copied, tmp_path / "node")
    assert done.returncode == 0, done.stderr
    assert "packages: unpacked" not in done.stdout and "code: unpacked" in done.stdout
    assert marker.exists()  # installed packages are not touched
    done = unpack(copied, tmp_path / "node", "--only", "weights")
    assert done.returncode == 2 and "no weights in this bundle; it holds packages," in done.stderr


def test_another_python_is_refused(copied: Path, tmp_path: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text("utf-8"))
    (copied / "manifest.json").write_text(json.dumps({**manifest, "python": "3.10"}), "utf-8")
    done = unpack(copied, tmp_path / "node")
    assert done.returncode == 2 and f"for Python 3.10, and this is {HERE}" in done.stderr


def test_files_left_out_of_a_wheel_are_not_in_its_record(tmp_path: Path) -> None:
    wheel = wheel_in(tmp_path / "cache")
    name, path = trimmed(wheel, ["greet/large/"], tmp_path, False)
    assert name == f"wheels/{wheel.name}"
    with zipfile.ZipFile(path) as archive:
        assert "greet/large/table.txt" not in archive.namelist()
        assert b"large" not in archive.read("greet-1.0.dist-info/RECORD")
    assert trimmed(wheel, ["other/"], tmp_path, False)[1] == wheel  # the registry's own file


def test_the_list_of_installed_packages_is_parsed() -> None:
    assert installed_there("torch==2.11.0+cu130\nNumPy==2.5.2\n") == {
        "torch==2.11.0",
        "numpy==2.5.2",
    }
    with pytest.raises(UserError, match="--have: no line of the form name==version"):
        installed_there("Package Version\n")


def test_part_sizes() -> None:
    assert part_size("60MiB") == 60 << 20 and part_size("1000") == 1000
    for wrong in ("60MB", "0", "-1", "1.5GiB"):
        with pytest.raises(UserError, match="--part-size"):
            part_size(wrong)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(UserError, match="contains other files"):
        write(tmp_path, HERE, {}, KIB, False)
    assert (tmp_path / "notes.txt").read_text("utf-8") == "mine"


@pytest.mark.slow
def test_packages_are_fetched_for_another_python(tmp_path: Path) -> None:
    """A source package is built, a compiled one downloaded for Python 3.12."""
    (tmp_path / "wanted.txt").write_text("rouge_score==0.1.2  # sdist\nijson>=3.3\n", "utf-8")
    flags = [tmp_path / "bundle", "--python", "3.12", "--requirements", tmp_path / "wanted.txt"]
    done = command("python", "-m", "scripts.offline_bundle", *flags)
    if "onnection" in done.stderr or "no such file or directory" in done.stderr.lower():
        pytest.skip("no package registry can be reached")
    assert done.returncode == 0, done.stderr
    names = json.loads((tmp_path / "bundle/manifest.json").read_text("utf-8"))["install"]
    ijson, rouge = sorted(names)
    assert rouge == "rouge_score-0.1.2-py3-none-any.whl" and "cp312" in ijson


@pytest.mark.slow
def test_fitting_packages_of_the_other_machine_are_left_out(tmp_path: Path) -> None:
    have = {"numpy==2.1.0", "absl-py==2.1.0", "six==1.9.0"}  # rouge-score needs six>=1.14
    try:
        lacks = resolve(["rouge_score==0.1.2"], "3.12", have, tmp_path)
    except UserError as error:
        if "onnection" in str(error):
            pytest.skip("no package registry can be reached")
        raise
    names = {line.split("==")[0] for line in lacks}
    assert {"rouge-score", "nltk", "six"} <= names and not {"numpy", "absl-py"} & names
