"""Pack packages, code, data and models, in parts, for a machine without network.

    python -m scripts.offline_bundle outputs/bundle --python 3.12 --have freeze.txt \
        --recipe recipes/smollm2_samsum.yml --part-size 60MiB

`freeze.txt` is that machine's `pip list --format=freeze`: packages that it has in a suitable
version are left out, above all PyTorch with CUDA. The packages are those of pyproject.toml and
their dependencies, or only those in a `--requirements` file. Copy the folder there and run `python3
bundle/unpack.py TARGET`. docs/gpu.md has the commands for a GPU that is lent for minutes.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any, Literal

from packaging.utils import canonicalize_name

from data_prep.errors import UserError, run_cli
from data_prep.options import Options
from data_prep.recipe import load_recipe
from scripts.unpack_bundle import CODE, sha256_of

Files = list[tuple[str, Path]]  # names in the bundle, and their files

ROOT = Path(__file__).resolve().parent.parent
GLIBC = 28  # 2.28 of 2018: Debian 10, RHEL 8 and later; no wheels that need a newer one
PLATFORMS = [*(f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)),
             "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]  # fmt: skip
EPOCH = 315532800  # 1980-01-01, the earliest time that a zip file can store
SIZES = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
LEFT_OUT = (  # files in wheels that no training, evaluation or measurement reads
    r"wandb/bin/",  # 20 MB of programs that a logging server needs
    r"pycountry/locales/",  # 8 MB of translations
    r"mistral_common/data/(?!tokenizer\.model\.v1$)",  # 36 MB; random_model.py reads the v1 file
)


def main() -> None:
    """Resolve, download and pack everything; print what was packed."""
    args = _arguments()
    size = part_size(args.part_size)
    if missing := [path for path in (*args.model, *args.data, *args.recipe) if not path.exists()]:
        raise UserError(f"{missing[0]}: does not exist")
    left_out = [*LEFT_OUT]
    if args.cuda:
        left_out.append(rf"bitsandbytes/libbitsandbytes_(?!cuda{args.cuda.replace('.', '')}|cpu)")
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder.parent) as temporary:
        work = Path(temporary)
        if args.requirements:
            lines = args.requirements.read_text("utf-8").splitlines()
            requirements = [text for line in lines if (text := line.partition("#")[0].strip())]
        else:
            have = installed_there(args.have.read_text("utf-8")) if args.have else set()
            project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
            requirements = resolve(project["dependencies"], args.python, have, work)
        packages = download(requirements, args.python, work / "packages")
        carried = download(args.carry, args.python, work / "carried") if args.carry else []
        code = checkout(work / CODE)
        contents = {
            "packages": [trimmed(path, left_out, work, args.smallest) for path in packages],
            "code": files_of(code, CODE),
            **data_and_models(args, code),
            "wheels": [trimmed(path, left_out, work, args.smallest) for path in carried],
        }
        write(args.folder, args.python, contents, size, args.smallest)


# ---- wheels ----


def installed_there(listed: str) -> set[str]:
    """Return `name==version` per line of `pip list --format=freeze`, named as in the registry."""
    pairs = re.findall(r"^([\w.-]+)==([\w.!-]+)", listed, re.M)  # without a suffix such as +cu130
    if not pairs:
        raise UserError("--have: no line of the form name==version; write it with `pip list "
                        "--format=freeze`")  # fmt: skip
    return {f"{canonicalize_name(name)}=={version}" for name, version in pairs}


def resolve(wanted: list[str], python: str, have: set[str], work: Path) -> list[str]:
    """Return the requirements (`name==version`) that a machine with the packages `have` lacks."""
    try:
        from uv import find_uv_bin  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError("uv is missing; run `pip install uv`") from error
    in_file, pins = work / "wanted.in", work / "resolved.txt"
    in_file.write_text("\n".join(wanted), "utf-8")
    pins.write_text("\n".join(have), "utf-8")  # uv prefers its output file's versions if they fit
    uv = [find_uv_bin(), "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    uv += ["--python-version", python, "--python-platform", f"x86_64-manylinux_2_{GLIBC}"]
    run([*uv, str(in_file), "-o", str(pins)], f"a list of packages for Python {python}")
    lines = pins.read_text("utf-8").splitlines()
    return sorted({line.split(" ;")[0].strip() for line in lines} - have)


def download(wanted: list[str], python: str, folder: Path) -> list[Path]:
    """Download the wheels of these packages, without their dependencies.

    A package without a wheel in the registry is built here; UserError if that compiles code.
    """
    folder.mkdir()
    pip = [sys.executable, "-m", "pip"]
    command = [*pip, "download", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", python, "--find-links", str(folder), "--dest", str(folder)]
    command += [flag for name in PLATFORMS for flag in ("--platform", name)]
    print(f"downloading {len(wanted)} packages", flush=True)
    built = set[str]()
    while wanted:
        result = subprocess.run([*command, *wanted], capture_output=True, text=True)
        if result.returncode == 0:
            break
        match = re.search(r"satisfies the requirement ([^\s;(]+)", result.stderr)
        if match is None or match[1] in built:
            errors = re.findall(r"ERROR: (.*)", result.stderr) or [result.stderr[-300:]]
            raise UserError(f"pip cannot download the packages for Python {python}: {errors[-1]}")
        built.add(match[1])
        build = [*pip, "wheel", "--quiet", "--no-deps", "-w", str(folder), match[1]]
        run(build, f"a wheel of {match[1]}")
        # pip downloads all or nothing: so far the folder only has the built wheels
        if any(not wheel.name.endswith("-none-any.whl") for wheel in folder.glob("*.whl")):
            raise UserError(f"{match[1]}: has no wheel, and one built here fits only this CPU")
    return sorted(folder.glob("*.whl"))


def trimmed(wheel: Path, left_out: list[str], folder: Path, smallest: bool) -> tuple[str, Path]:
    """Return a wheel without the files to leave out; for xz its files are stored uncompressed."""
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
    """Return what a command prints; raise UserError, which names `what`, if it fails."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        lines = [x for x in result.stderr.splitlines() if "rror" in x] or [result.stderr[-300:]]
        raise UserError(f"{what} failed: {lines[-1]}")
    return result.stdout


# ---- code, data, models ----


def checkout(code: Path) -> Path:
    """Clone the commit that is checked out, with enough of git to know its name."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        raise UserError(f"{ROOT}: not a git repository, so scores.json could not name its commit")
    status = ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"]
    if changed := run(status, "git status").splitlines():
        print(f"note: {len(changed)} changed files are left out; the bundle has the commit only")
    clone = ["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(code)]
    run(clone, "a clone")
    run(["git", "-C", str(code), "remote", "remove", "origin"], "a clone")
    for name in ("index", "FETCH_HEAD", "logs"):  # they contain times and paths of this machine
        path = code / ".git" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return code


def files_of(path: Path, into: str) -> Files:
    """Return all files of a folder, or one file, with their names in the bundle."""
    if path.is_file():
        return [(into, path)]
    files = (
        f for f in path.rglob("*") if f.is_file() and not (f.is_symlink() and f.suffix == ".lock")
    )
    return [(f"{into}/{file.relative_to(path).as_posix()}", file) for file in files]


def data_and_models(args: argparse.Namespace, code: Path) -> dict[str, Files]:
    """Return the files of `--data`, of `--model` and of the recipes, and the recipes themselves.

    Each goes where the recipe looks for it: a relative path within the project is kept.
    """

    def place(path: Path, kind: str) -> str:
        inside = not path.is_absolute() and ".." not in path.parts
        return path.as_posix() if inside else f"{kind}/{path.name}"

    places = {kind: {path: place(path, kind) for path in paths}
             for kind, paths in (("data", args.data), ("models", args.model))}  # fmt: skip
    for file in args.recipe:
        recipe = load_recipe(file)
        named = {"data": recipe.summarization.source, "models": str(recipe.config["base_model"])}
        for kind, path in ((kind, Path(name)) for kind, name in named.items()):
            if (code / path).exists():
                continue
            if path.exists():
                places[kind][path] = place(path, kind)
            elif place(path, kind) not in places[kind].values():
                print(f"note: {file}: {path} is not on this disk and not in the bundle; "
                      f"`hf download {path} --local-dir {kind}/NAME`, and add that")  # fmt: skip
        if not (code / "recipes" / file.name).is_file():
            places["data"][file] = f"recipes/{file.name}"
    return {
        kind: [item for path, into in paths.items() for item in files_of(path, f"{CODE}/{into}")]
        for kind, paths in places.items()
    }


# ---- the parts ----


def write(folder: Path, python: str, contents: dict[str, Files], size: int, smallest: bool) -> None:
    """Write parts, manifest and unpack.py into `folder`, replacing an earlier bundle.

    Each content becomes a tar, cut into parts of at most `size` bytes.
    """
    for path in folder.iterdir():  # from an earlier run, also one that was stopped
        if not re.fullmatch(r"[a-z]+\.\d{3}|unpack\.py|manifest\.json|stream", path.name):
            raise UserError(f"{folder} contains other files; give a new or an empty folder")
        path.unlink()
    stream, packed = folder / "stream", []
    for name, files in contents.items():
        if not files:
            continue
        # weights look random: in hours, xz would make them only a little smaller
        mode: Literal["w:xz", "w"] = "w:xz" if smallest and name != "models" else "w"
        with tarfile.open(stream, mode) as tar:
            for member, file in sorted(files):
                info = tarfile.TarInfo(member)  # without this machine's owner and times
                info.mtime, info.size = EPOCH, file.stat().st_size
                info.mode = 0o644 | file.stat().st_mode & 0o111
                with file.open("rb") as data:
                    tar.addfile(info, data)
        parts: list[dict[str, str | int]] = []
        with stream.open("rb") as whole:
            while piece := whole.read(size):
                path = folder / f"{name}.{len(parts):03d}"
                path.write_bytes(piece)
                parts.append({"name": path.name, "size": len(piece), "sha256": sha256_of(path)})
                print(f"{path}: {len(piece):,} bytes", flush=True)
        stream.unlink()
        packed.append({"name": name, "parts": parts})
    manifest = {
        "python": python,
        "commit": run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], "git rev-parse").strip(),
        "install": [path.name for _, path in contents["packages"]],
        "contents": packed,
    }
    shutil.copyfile(ROOT / "scripts/unpack_bundle.py", folder / "unpack.py")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    print(f"copy {folder} to that machine, and run: python{python} {folder.name}/unpack.py TARGET")


def part_size(text: str) -> int:
    """Return the bytes in `60MiB`, `2GiB` or a plain number."""
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
    add: Any = parser.add_argument
    several = {"action": "append", "default": [], "type": Path}
    add("folder", type=Path, help="folder to write the bundle to")
    add("--python", default=f"{sys.version_info[0]}.{sys.version_info[1]}", help="target version")
    add("--have", type=Path, metavar="FILE",
        help="list of that machine's packages (default: nothing is installed there)")  # fmt: skip
    add("--requirements", type=Path, metavar="FILE",
        help="only these packages (default: pyproject.toml's and their dependencies)")  # fmt: skip
    add("--carry", action="append", default=[], metavar="NAME==VERSION",
        help="a wheel to carry but not install; can be repeated (default: none)")  # fmt: skip
    add("--cuda", metavar="VERSION",
        help="leave out libraries for other versions (default: keep all)")  # fmt: skip
    add("--recipe", **several, help="recipe file, with its model and data (default: none)")
    add("--model", **several, help="model folder (default: none)")
    add("--data", **several, help="data folder or file (default: none)")
    add("--part-size", default="60MiB", help="maximum size of a part")
    add("--smallest", action="store_true", help="half the size, for a minute of xz per 100 MB")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
