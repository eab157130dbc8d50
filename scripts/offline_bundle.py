"""Pack what a machine without network lacks, in parts: packages, code, data, models.

    python -m scripts.offline_bundle outputs/bundle --python 3.12 --have freeze.txt \
        --recipe recipes/smollm2_samsum.yml --part-size 60MiB

`freeze.txt` is that machine's `pip freeze`: what it has is not carried, PyTorch with CUDA above
all. Packages are those of pyproject.toml with all that they need, or the lines of a
`--requirements` file alone. Copy the folder there and run `python3 bundle/unpack.py TARGET`. The
same call again makes the same bytes and downloads nothing: wheels are kept in `<folder>.wheels`.
docs/gpu.md has the calls for a GPU that is lent for minutes.
"""

import argparse
import hashlib
import io
import json
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from data_prep.errors import UserError, run_cli
from data_prep.recipe import load_recipe
from scripts.bundle_wheels import (
    EPOCH,
    LEFT_OUT,
    ROOT,
    Wheel,
    fetch,
    installed_there,
    project_requirements,
    resolve,
    run,
    trimmed,
)  # fmt: skip
from scripts.unpack_bundle import CODE, sha256_of

SIZES = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclass(frozen=True)
class Content:
    """One tar of the stream: where it begins in the joined parts, and what its bytes are."""

    name: str
    offset: int
    size: int
    sha256: str
    compression: str  # "xz" or ""


def main() -> None:
    """Resolve, fetch, pack; print what was packed."""
    args = _arguments()
    size = part_size(args.part_size)
    cache = args.folder.with_name(f"{args.folder.name}.wheels")
    cache.mkdir(parents=True, exist_ok=True)
    if args.requirements:
        lines = args.requirements.read_text("utf-8").splitlines()
        wanted = [text for line in lines if (text := line.partition("#")[0].strip())]
    else:
        wanted = project_requirements(args.extra)
    have = installed_there(args.have.read_text("utf-8")) if args.have else {}
    whole = args.requirements is not None
    packages = resolve(wanted, args.python, have, cache, whole)
    carried = resolve(args.carry, args.python, {}, cache, True) if args.carry else []
    fetch([*packages, *carried], args.python, cache)
    left_out = [*LEFT_OUT, *args.leave_out]
    if args.cuda:
        left_out.append(rf"bitsandbytes/libbitsandbytes_(?!cuda{args.cuda.replace('.', '')}|cpu)")
    for path in (*args.model, *args.data, *args.recipe):
        if not path.exists():
            raise UserError(f"{path}: not there")
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        folder = Path(temporary)
        code = checkout(folder)
        contents = {
            "packages": trimmed(packages, cache, left_out, folder, args.smallest),
            "code": files_of(code, CODE),
            "data": _chosen(args.data, "data", args.recipe, "source", code),
            "models": _chosen(args.model, "models", args.recipe, "base_model", code),
            "wheels": trimmed(carried, cache, left_out, folder, args.smallest),
        }
        write(args.folder, args.python, packages, contents, size, args.smallest)


def write(
    folder: Path,
    python: str,
    packages: list[Wheel],
    contents: Mapping[str, Iterable[tuple[str, Path]]],
    size: int,
    smallest: bool,
) -> None:
    """Write parts, manifest and unpack.py into `folder`, in place of an earlier bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():  # of an earlier call, one that was stopped included
        if not re.fullmatch(r"part\.\d+|unpack\.py|manifest\.json", path.name):
            raise UserError(f"{folder} holds something else; name a new or an empty folder")
        path.unlink()
    parts, packed = Parts(folder, size), []
    for name, files in contents.items():
        if found := sorted(files):
            packed.append(pack(name, found, parts, smallest))
            print(f"{name}: {len(found)} files, {packed[-1].size / 1e6:,.1f} MB", flush=True)
    parts.close()
    manifest = {
        "python": python, "commit": _git(ROOT, "rev-parse", "HEAD"),
        "install": [wheel.file for wheel in packages],
        "packages": {wheel.name: wheel.version for wheel in packages},
        "contents": [asdict(content) for content in packed], "parts": parts.finished,
    }  # fmt: skip
    shutil.copyfile(ROOT / "scripts/unpack_bundle.py", folder / "unpack.py")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    for part in parts.finished:
        print(f"{folder / str(part['name'])}: {part['size']:,} bytes")
    print(f"copy {folder} there, and run: python{python} {folder.name}/unpack.py TARGET")


# ---- code, data, models ----


def checkout(folder: Path) -> Path:
    """The commit that is checked out, with as much of git as names it."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        raise UserError(f"{ROOT}: not a git repository, whose commit scores.json would name")
    if changed := _git(ROOT, "status", "--porcelain", "--untracked-files=no").splitlines():
        print(f"note: {len(changed)} changed files are not in the bundle, only the commit is")
    code = folder / CODE
    _git(folder, "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(code))
    _git(code, "remote", "remove", "origin")
    _git(code, "-c", "pack.threads=1", "repack", "-a", "-d", "-f", "-q")
    for name in ("index", "FETCH_HEAD", "hooks", "logs", "info"):  # they hold times and paths
        path = code / ".git" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return code


def files_of(path: Path, into: str) -> Iterator[tuple[str, Path]]:
    """All files of a folder, or one file, by their names in the bundle."""
    if path.is_file():
        yield into, path
    for file in path.rglob("*"):
        if file.is_file() and not (file.is_symlink() and file.suffix == ".lock"):
            yield f"{into}/{file.relative_to(path).as_posix()}", file


def _chosen(
    folders: list[Path], kind: str, recipes: list[Path], key: str, code: Path
) -> Iterator[tuple[str, Path]]:
    """`--data` or `--model` folders, what recipes name of that kind, and the recipes with data.

    Each goes where the recipe looks for it: a relative path within the project stays as it is.
    """
    chosen = {path: _place(path, kind) for path in folders}
    for file in recipes:
        recipe = load_recipe(file)
        block = recipe.summarization
        named = block.source if key == "source" else recipe.config["base_model"]
        if Path(named).exists() and not (code / named).exists():
            chosen[Path(named)] = _place(Path(named), kind)
        elif not (code / named).exists() and _place(Path(named), kind) not in chosen.values():
            print(f"note: {file}: {key} {named} is not on this disk and not in the bundle; "
                  f"`hf download {named} --local-dir {kind}/NAME`, and carry that")  # fmt: skip
        if key == "source" and not (code / "recipes" / file.name).is_file():
            chosen[file] = f"recipes/{file.name}"
    for path, place in chosen.items():
        yield from files_of(path, f"{CODE}/{place}")


def _place(path: Path, kind: str) -> str:
    inside = not path.is_absolute() and ".." not in path.parts
    return path.as_posix() if inside else f"{kind}/{path.name}"


def _git(folder: Path, *words: str) -> str:
    return run(["git", "-C", str(folder), *words], f"git {words[0]}").strip()


# ---- the stream ----


class Parts(io.RawIOBase):
    """What is written goes to files of at most `size` bytes each."""

    def __init__(self, folder: Path, size: int):
        """`finished` lists the parts; `at` counts all bytes, `digest` those of one content."""
        self.folder, self.most, self.at = folder, size, 0
        self.finished: list[dict[str, str | int]] = []
        self.file: io.BufferedWriter | None = None
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        """As a file that is open for writing."""
        return True

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        """Write all of it, in as many parts as that takes."""
        rest = memoryview(data)
        self.digest.update(rest)
        self.at += len(rest)
        while rest:
            if self.file is None:
                name = f"part.{len(self.finished):03d}"
                self.file = (self.folder / name).open("wb")
            room = self.most - self.file.tell()
            self.file.write(rest[:room])
            if len(rest) >= room:
                self._finish()
            rest = rest[room:]
        return len(data)

    def _finish(self) -> None:
        if self.file is not None:
            path = Path(self.file.name)
            self.file.close()
            self.finished.append({"name": path.name, "size": path.stat().st_size,
                                  "sha256": sha256_of(path)})  # fmt: skip
            self.file = None

    def close(self) -> None:
        """Finish the last part."""
        self._finish()
        super().close()


def pack(name: str, files: list[tuple[str, Path]], parts: Parts, smallest: bool) -> Content:
    """Append a tar of `files` that depends on their names, bytes and executable bits alone."""
    # weights are as good as random: xz would make them little smaller in hours
    small = smallest and name != "models"
    mode: Literal["w|xz", "w|"] = "w|xz" if small else "w|"
    offset, parts.digest = parts.at, hashlib.sha256()
    with tarfile.open(fileobj=parts, mode=mode, format=tarfile.PAX_FORMAT) as tar:
        for place, file in files:
            info = tarfile.TarInfo(place)
            info.mtime, info.size = EPOCH, file.stat().st_size
            info.mode = 0o644 | file.stat().st_mode & 0o111
            with file.open("rb") as data:
                tar.addfile(info, data)
    return Content(name, offset, parts.at - offset, parts.digest.hexdigest(), mode[2:])


def part_size(text: str) -> int:
    """Bytes of `60MiB`, `2GiB` or a bare number."""
    match = re.fullmatch(r"(\d+)(|KiB|MiB|GiB)", text)
    if match is None or not int(match[1]):
        raise UserError(f"--part-size: {text!r} is not of the form 60MiB")
    return int(match[1]) * SIZES[match[2]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"

    def several(flag: str, what: str, kind: type = str, name: str | None = None) -> None:
        parser.add_argument(flag, type=kind, action="append", default=[], help=what, metavar=name)

    parser.add_argument("folder", type=Path, help="where the bundle goes, outputs/bundle say")
    parser.add_argument("--python", default=here, help=f"that machine's; default {here}")
    parser.add_argument("--have", type=Path, metavar="FILE", help="that machine's `pip freeze`")
    several("--extra", "of pyproject.toml")
    only = "these packages alone, in the place of pyproject.toml's"
    parser.add_argument("--requirements", type=Path, metavar="FILE", help=only)
    several("--carry", "a wheel that is not installed there", name="NAME==VERSION")
    parser.add_argument("--cuda", metavar="13.0", help="leave out libraries for other versions")
    several("--leave-out", "files of wheels, by the start of their names", name="REGEX")
    several("--recipe", "with the model and data folders that it names", Path)
    several("--model", "a model folder", Path)
    several("--data", "a folder or file of data", Path)
    parser.add_argument("--part-size", default="60MiB", help="bytes a part at most; default 60MiB")
    smallest = "half the size, for a minute of xz each 100 MB"
    parser.add_argument("--smallest", action="store_true", help=smallest)
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
