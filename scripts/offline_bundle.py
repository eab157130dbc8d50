"""Pack what a machine without network lacks, in parts: packages, code, data, models.

    python -m scripts.offline_bundle outputs/bundle --python 3.12 --have freeze.txt \
        --recipe recipes/smollm2_samsum.yml --part-size 60MiB

`freeze.txt` is that machine's `pip freeze`: what it has and that fits is not carried, PyTorch with
CUDA above all. Packages are those of pyproject.toml with all that they need, or the lines of a
`--requirements` file alone. Copy the folder there and run `python3 bundle/unpack.py TARGET`.
Wheels are kept in `<folder>.wheels`, so that the same call again downloads nothing. docs/gpu.md has
the calls for a GPU that is lent for minutes.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.parse
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from packaging.utils import canonicalize_name

from data_prep.errors import UserError, run_cli
from data_prep.options import Options
from data_prep.recipe import load_recipe
from scripts.unpack_bundle import CODE, sha256_of

ROOT = Path(__file__).resolve().parent.parent
GLIBC = 28  # 2.28 of 2018: Debian 10, RHEL 8 and later; wheels for a newer one are not taken
PLATFORMS = [*(f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)),
             "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]  # fmt: skip
EPOCH = 315532800  # 1980-01-01, the first time that a zip file can hold
SIZES = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
LEFT_OUT = (  # of wheels: what no training, evaluation or measurement reads
    r"wandb/bin/",  # 20 MB of programs that a logging server needs
    r"pycountry/locales/",  # 8 MB of translations
    r"mistral_common/data/(?!tokenizer\.model\.v1$)",  # 36 MB; random_model.py reads the v1 file
)


def main() -> None:
    """Resolve, download, pack; print what was packed."""
    args = _arguments()
    size = part_size(args.part_size)
    if missing := [path for path in (*args.model, *args.data, *args.recipe) if not path.exists()]:
        raise UserError(f"{missing[0]}: not there")
    if args.requirements:
        lines = args.requirements.read_text("utf-8").splitlines()
        wanted = [text for line in lines if (text := line.partition("#")[0].strip())]
    else:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        wanted = project["dependencies"]
    have = installed_there(args.have.read_text("utf-8")) if args.have else {}
    cache = args.folder.with_name(f"{args.folder.name}.wheels")
    if not args.requirements:
        wanted = resolve(wanted, args.python, have, cache)
    packages = download(wanted, args.python, cache)
    carried = download(args.carry, args.python, cache) if args.carry else []
    left_out = [*LEFT_OUT]
    if args.cuda:
        left_out.append(rf"bitsandbytes/libbitsandbytes_(?!cuda{args.cuda.replace('.', '')}|cpu)")
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        folder = Path(temporary)
        contents = {
            "packages": [trimmed(path, left_out, folder, args.smallest) for path in packages],
            "code": files_of(checkout(folder / CODE), CODE),
            "data": chosen(args.data, "data", args.recipe, "source", folder / CODE),
            "models": chosen(args.model, "models", args.recipe, "base_model", folder / CODE),
            "wheels": [trimmed(path, left_out, folder, args.smallest) for path in carried],
        }
        write(args.folder, args.python, contents, size, args.smallest)


# ---- wheels ----


def installed_there(freeze: str) -> dict[str, str]:
    """Names and versions in the output of `pip freeze`."""
    found = {}
    for line in freeze.splitlines():
        if match := re.match(r"([\w.-]+)==([\w.+!-]+)", line.strip()):
            found[match[1]] = match[2]
        elif match := re.match(r"([\w.-]+) @ .*/[\w.]+-(\d[\w.+!%]*?)-\S*\.whl", line.strip()):
            found[match[1]] = urllib.parse.unquote(match[2])  # a local wheel: its name tells
    if not found:
        raise UserError("--have: no line of the form name==version; it is what `pip freeze` prints")
    return found


def resolve(wanted: list[str], python: str, have: dict[str, str], cache: Path) -> list[str]:
    """The requirements (`name==version`) that a machine with the packages of `have` lacks."""
    try:
        from uv import find_uv_bin  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError("uv is missing; run `pip install uv`") from error
    # uv prefers the versions of its output file, where they fit. The registry does not know a
    # build such as 2.11.0+cu130
    there = {canonicalize_name(name): version.partition("+")[0] for name, version in have.items()}
    answer = cache / f"resolved-{_digest([wanted, python, there])}.txt"
    cache.mkdir(parents=True, exist_ok=True)
    if not answer.is_file():
        with tempfile.TemporaryDirectory() as temporary:
            asked, lines = Path(temporary) / "wanted.in", Path(temporary) / "resolved.txt"
            asked.write_text("\n".join(wanted), "utf-8")
            lines.write_text("".join(f"{n}=={v}\n" for n, v in there.items()), "utf-8")
            uv = [find_uv_bin(), "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
            uv += ["--python-version", python, "--python-platform", f"x86_64-manylinux_2_{GLIBC}"]
            run([*uv, str(asked), "-o", str(lines)], f"a list of packages for Python {python}")
            shutil.move(lines, answer)
    pins = [line.split(" ;")[0].strip() for line in answer.read_text("utf-8").splitlines()]
    return sorted(set(pins) - {f"{name}=={version}" for name, version in there.items()})


def download(wanted: list[str], python: str, cache: Path) -> list[Path]:
    """The wheels of these packages, without what they need in turn.

    What has no wheel at the registry is built here, and refused where that compiles something.
    """
    folder = cache / _digest([wanted, python, PLATFORMS])
    done = folder / "done"
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    command = [*pip, "download", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", python, "--find-links", str(folder), "--dest", str(folder)]
    command += [flag for name in PLATFORMS for flag in ("--platform", name)]
    built: set[str] = set()
    while wanted and not done.is_file():
        print(f"downloading {len(wanted)} packages to {folder}", flush=True)
        ran = subprocess.run([*command, *wanted], capture_output=True, text=True)
        if ran.returncode == 0:
            done.touch()
            break
        source = re.search(r"satisfies the requirement ([^\s;(]+)", ran.stderr)
        if source is None or source[1] in built:
            errors = re.findall(r"ERROR: (.*)", ran.stderr) or [ran.stderr[-300:]]
            raise UserError(f"pip cannot download the packages for Python {python}: {errors[-1]}")
        built.add(source[1])
        before = set(folder.glob("*.whl"))
        make = [*pip, "wheel", "--quiet", "--no-deps", "-w", str(folder), source[1]]
        run(make, f"a wheel of {source[1]}")
        for wheel in set(folder.glob("*.whl")) - before:
            if not wheel.name.endswith("-none-any.whl"):
                wheel.unlink()
                raise UserError(f"{source[1]}: has no wheel, and one made here fits no other CPU")
    return sorted(folder.glob("*.whl"))


def trimmed(wheel: Path, left_out: list[str], folder: Path, smallest: bool) -> tuple[str, Path]:
    """A wheel without the files to leave out; for xz its files are stored, not deflated."""
    unread = re.compile("|".join(left_out))
    place, path = f"wheels/{wheel.name}", folder / wheel.name
    method = zipfile.ZIP_STORED if smallest else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(wheel) as old:
        members = [member for member in old.infolist() if not unread.match(member.filename)]
        if len(members) == len(old.infolist()) and not smallest:
            return place, wheel
        with zipfile.ZipFile(path, "w", method) as new:
            for member in members:
                data = old.read(member)
                if member.filename.endswith(".dist-info/RECORD"):
                    lines = data.decode("utf-8").splitlines(keepends=True)
                    data = "".join(x for x in lines if not unread.match(x)).encode("utf-8")
                member.compress_type = method
                new.writestr(member, data)
    return place, path


def run(command: list[str], what: str) -> str:
    """What a command prints; raises UserError where it fails to make `what`."""
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        lines = [x for x in ran.stderr.splitlines() if "rror" in x] or [ran.stderr[-300:]]
        raise UserError(f"{what} could not be made: {lines[-1]}")
    return ran.stdout


def _digest(question: list[object]) -> str:
    return hashlib.sha256(json.dumps(question).encode()).hexdigest()[:16]


# ---- code, data, models ----


def checkout(code: Path) -> Path:
    """The commit that is checked out, with as much of git as names it."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        raise UserError(f"{ROOT}: not a git repository, whose commit scores.json would name")
    status = ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"]
    if changed := run(status, "git status").splitlines():
        print(f"note: {len(changed)} changed files are not in the bundle, only the commit is")
    clone = ["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(code)]
    run(clone, "a clone")
    run(["git", "-C", str(code), "remote", "remove", "origin"], "a clone")
    for name in ("index", "FETCH_HEAD", "logs"):  # they hold times and paths of this machine
        path = code / ".git" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return code


def files_of(path: Path, into: str) -> list[tuple[str, Path]]:
    """All files of a folder, or one file, with their names in the bundle."""
    if path.is_file():
        return [(into, path)]
    files = (
        f for f in path.rglob("*") if f.is_file() and not (f.is_symlink() and f.suffix == ".lock")
    )
    return [(f"{into}/{file.relative_to(path).as_posix()}", file) for file in files]


def chosen(
    folders: list[Path], kind: str, recipes: list[Path], key: str, code: Path
) -> list[tuple[str, Path]]:
    """`--data` or `--model` folders, what recipes name of that kind, and the recipes with data.

    Each goes where the recipe looks for it: a relative path within the project stays as it is.
    """

    def place(path: Path) -> str:
        inside = not path.is_absolute() and ".." not in path.parts
        return path.as_posix() if inside else f"{kind}/{path.name}"

    found = {path: place(path) for path in folders}
    for file in recipes:
        recipe = load_recipe(file)
        block = recipe.summarization
        named = Path(block.source if key == "source" else str(recipe.config["base_model"]))
        if named.exists() and not (code / named).exists():
            found[named] = place(named)
        elif not (code / named).exists() and place(named) not in found.values():
            print(f"note: {file}: {key} {named} is not on this disk and not in the bundle; "
                  f"`hf download {named} --local-dir {kind}/NAME`, and carry that")  # fmt: skip
        if key == "source" and not (code / "recipes" / file.name).is_file():
            found[file] = f"recipes/{file.name}"
    return [item for path, into in found.items() for item in files_of(path, f"{CODE}/{into}")]


# ---- the parts ----


def write(
    folder: Path,
    python: str,
    contents: dict[str, list[tuple[str, Path]]],
    size: int,
    smallest: bool,
) -> None:
    """Write parts, manifest and unpack.py into `folder`, in place of an earlier bundle.

    The tars of all contents, one after the other, are cut into parts of at most `size` bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():  # of an earlier call, one that was stopped included
        if not re.fullmatch(r"part\.\d+|unpack\.py|manifest\.json|stream", path.name):
            raise UserError(f"{folder} holds something else; name a new or an empty folder")
        path.unlink()
    stream, packed = folder / "stream", []
    parts: list[dict[str, str | int]] = []
    for name, files in contents.items():
        if files:
            begin = stream.stat().st_size if stream.is_file() else 0
            # weights are as good as random: xz would make them little smaller in hours
            compression = "xz" if smallest and name != "models" else ""
            pack(files, stream, compression)
            length = stream.stat().st_size - begin
            packed.append(
                {"name": name, "offset": begin, "size": length, "compression": compression}
            )
            print(f"{name}: {len(files)} files, {length / 1e6:,.1f} MB", flush=True)
    with stream.open("rb") as whole:
        while data := whole.read(size):
            path = folder / f"part.{len(parts):03d}"
            path.write_bytes(data)
            parts.append({"name": path.name, "size": len(data), "sha256": sha256_of(path)})
            print(f"{path}: {len(data):,} bytes")
    stream.unlink()
    manifest = {
        "python": python,
        "commit": run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], "git rev-parse").strip(),
        "install": [path.name for _, path in contents["packages"]],
        "contents": packed,
        "parts": parts,
    }
    shutil.copyfile(ROOT / "scripts/unpack_bundle.py", folder / "unpack.py")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    print(f"copy {folder} there, and run: python{python} {folder.name}/unpack.py TARGET")


def pack(files: Iterable[tuple[str, Path]], stream: Path, compression: str) -> None:
    """Append a tar of `files`, without owners and times of this machine."""
    mode: Literal["w|xz", "w|"] = "w|xz" if compression else "w|"
    with stream.open("ab") as out, tarfile.open(fileobj=out, mode=mode) as tar:
        for place, file in sorted(files):
            info = tarfile.TarInfo(place)
            info.mtime, info.size = EPOCH, file.stat().st_size
            info.mode = 0o644 | file.stat().st_mode & 0o111
            with file.open("rb") as data:
                tar.addfile(info, data)


def part_size(text: str) -> int:
    """Bytes of `60MiB`, `2GiB` or a bare number."""
    match = re.fullmatch(r"(\d+)(|KiB|MiB|GiB)", text)
    if match is None or not int(match[1]):
        raise UserError(f"--part-size: {text!r} is not of the form 60MiB")
    return int(match[1]) * SIZES[match[2]]


def _arguments() -> argparse.Namespace:
    parser = Options(
        "scripts.offline_bundle", __doc__.splitlines()[0],
        "outputs/bundle --python 3.11 --have freeze.txt --recipe recipes/smollm2_samsum.yml",
        "outputs/bundle --model models/smollm2-135m-instruct --data data_prep/sample --smallest",
        "outputs/bundle --requirements scripts/bundle_minimal.txt --carry numba==0.62.1 "
        "--cuda 13.0 --part-size 1GiB",
    )  # fmt: skip
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"

    def several(flag: str, what: str, kind: type = Path, name: str | None = None) -> None:
        what += ", also several times (default: none)"
        parser.add_argument(flag, type=kind, action="append", default=[], help=what, metavar=name)

    parser.add_argument("folder", type=Path, help="where the bundle goes")
    parser.add_argument("--python", default=here, help="that machine's")
    have = "that machine's `pip freeze` (default: nothing is installed there)"
    parser.add_argument("--have", type=Path, metavar="FILE", help=have)
    only = "these packages alone (default: pyproject.toml's and what they need)"
    parser.add_argument("--requirements", type=Path, metavar="FILE", help=only)
    several("--carry", "a wheel that is not installed there", str, "NAME==VERSION")
    cuda = "leave out libraries for other versions of CUDA (default: none is left out)"
    parser.add_argument("--cuda", metavar="VERSION", help=cuda)
    several("--recipe", "with the model and data folders that it names")
    several("--model", "a model folder")
    several("--data", "a folder or file of data")
    parser.add_argument("--part-size", default="60MiB", help="bytes a part at most")
    smallest = "half the size, for a minute of xz each 100 MB"
    parser.add_argument("--smallest", action="store_true", help=smallest)
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
