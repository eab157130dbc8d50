"""The wheels that another machine lacks, for scripts/offline_bundle.py: which, and how small.

Pip resolves them in an environment that looks like the other machine; what has no wheel at the
registry is built here. Files and answers are kept in a cache folder.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import urllib.parse
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from data_prep.errors import UserError
from scripts.unpack_bundle import sha256_of

ROOT = Path(__file__).resolve().parent.parent
GLIBC = 28  # 2.28 of 2018: Debian 10, RHEL 8 and later; wheels for a newer one are not taken
PLATFORMS = [*(f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)),
             "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]  # fmt: skip
EPOCH = 315532800  # 1980-01-01, the first time that a zip file can hold
LEFT_OUT = (  # of wheels: what no training, evaluation or measurement reads
    r"wandb/bin/",  # 20 MB of programs that a logging server needs
    r"pycountry/locales/",  # 8 MB of translations
    r"mistral_common/data/(?!tokenizer\.model\.v1$)",  # 36 MB; random_model.py reads the v1 file
)


@dataclass(frozen=True)
class Wheel:
    """A file of the registry, or one that was built from a source package."""

    name: str
    version: str
    file: str
    sha256: str


def project_requirements(extras: list[str]) -> list[str]:
    """What pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    known = project["optional-dependencies"]
    if unknown := set(extras) - known.keys():
        raise UserError(f"--extra: no {sorted(unknown)} in pyproject.toml; it has {sorted(known)}")
    return [*project["dependencies"], *(line for extra in extras for line in known[extra])]


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


def resolve(
    wanted: list[str], python: str, have: dict[str, str], cache: Path, whole: bool
) -> list[Wheel]:
    """The wheels that a machine with Python `python` and the packages of `have` lacks.

    `whole`: `wanted` is all of it, and what these need in turn is not asked. What pip resolved for
    the same question is in the cache. Raises UserError with pip's reason.
    """
    question = json.dumps([sorted(wanted), python, have, whole, PLATFORMS])
    answer = cache / f"resolved-{hashlib.sha256(question.encode()).hexdigest()[:16]}.json"
    if not answer.is_file():
        report = _ask_pip(wanted, python, have, cache, whole)
        found = [_wheel_of(item) for item in report["install"]]
        found.sort(key=lambda wheel: wheel.file)
        answer.write_text(json.dumps([asdict(wheel) for wheel in found], indent=1), "utf-8")
    return [Wheel(**item) for item in json.loads(answer.read_text("utf-8"))]


def _ask_pip(
    wanted: list[str], python: str, have: dict[str, str], cache: Path, whole: bool
) -> dict:
    """Pip's own report, from an environment that looks like the other machine.

    Its packages are there by their metadata alone, so that pip keeps to what would do and asks for
    the rest; its version is what environment markers read, which pip takes from the running Python
    even with --python-version.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "there"
        run([sys.executable, "-m", "venv", "--upgrade-deps", str(home)], "a virtual environment")
        site = next(home.glob("lib/python*/site-packages"))
        for name, version in have.items():
            info = site / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\n"
                                           f"Version: {version}\n", "utf-8")  # fmt: skip
        (site / "sitecustomize.py").write_text(
            f"import platform\nplatform.python_version = lambda: '{python}.0'\n"
            f"platform.python_version_tuple = lambda: {tuple(python.split('.')) + ('0',)}\n",
            "utf-8",
        )
        lines, report = Path(folder) / "wanted.txt", Path(folder) / "report.json"
        lines.write_text("\n".join(wanted), "utf-8")
        command = [str(home / "bin/python"), "-m", "pip", "install", "--dry-run", "--quiet",
                   "--report", str(report), "--find-links", str(cache), *_platform(python),
                   *(["--no-deps"] if whole else []), "-r", str(lines)]  # fmt: skip
        built: set[str] = set()
        while (ran := subprocess.run(command, capture_output=True, text=True)).returncode:
            # no wheel at the registry: a source package, of which one is built here
            missing = re.search(r"satisfies the requirement ([^\s;(]+)", ran.stderr)
            if missing is None or missing[1] in built:
                errors = re.findall(r"ERROR: (.*)", ran.stderr) or [ran.stderr[-300:]]
                raise UserError(
                    f"pip cannot resolve the packages for Python {python}: {errors[-1]}"
                )
            built.add(missing[1])
            _build(missing[1], cache)
        return dict(json.loads(report.read_text("utf-8")))


def _build(package: str, cache: Path) -> None:
    before = set(cache.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(cache)]
    run([*pip, package], f"a wheel of {package}")
    for wheel in set(cache.glob("*.whl")) - before:
        if not wheel.name.endswith("-none-any.whl"):
            wheel.unlink()
            raise UserError(f"{package}: has no wheel, and compiles to one for this machine alone")


def _wheel_of(item: dict) -> Wheel:
    info, about = item["download_info"], item["metadata"]
    file = urllib.parse.unquote(Path(urllib.parse.urlparse(info["url"]).path).name)
    return Wheel(about["name"], about["version"], file, info["archive_info"]["hashes"]["sha256"])


def fetch(wheels: list[Wheel], python: str, cache: Path) -> None:
    """Download what the cache lacks, ten at a time, so that a stopped call resumes there."""

    def missing() -> list[Wheel]:
        there = (w for w in wheels if (cache / w.file).is_file())
        whole = {w for w in there if sha256_of(cache / w.file) == w.sha256}
        return [w for w in wheels if w not in whole]

    todo = missing()
    for start in range(0, len(todo), 10):
        lines = cache / "wanted.txt"
        some = todo[start : start + 10]
        lines.write_text(
            "".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in some), "utf-8"
        )
        for wheel in some:
            (cache / wheel.file).unlink(missing_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *_platform(python)]
        run([*pip, "--dest", str(cache), "-r", str(lines)], f"{some[0].file} and others")
        lines.unlink()
        print(f"fetched {min(start + 10, len(todo))} of {len(todo)} wheels", flush=True)
    if wrong := missing():
        raise UserError(f"{cache / wrong[0].file}: not the file that pip resolved; delete {cache}")


def _platform(python: str) -> list[str]:
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", python,
            *(flag for name in PLATFORMS for flag in ("--platform", name))]  # fmt: skip


def trimmed(
    wheels: list[Wheel], cache: Path, left_out: list[str], folder: Path, smallest: bool
) -> Iterator[tuple[str, Path]]:
    """Each wheel, without the files to leave out; for xz files are stored, not deflated."""
    unread = re.compile("|".join(left_out))
    method = zipfile.ZIP_STORED if smallest else zipfile.ZIP_DEFLATED
    for wheel in wheels:
        path = folder / wheel.file
        with zipfile.ZipFile(cache / wheel.file) as old, zipfile.ZipFile(path, "w", method) as new:
            members = [m for m in old.infolist() if not unread.match(m.filename)]
            if len(members) == len(old.infolist()) and not smallest:
                path = cache / wheel.file
                members = []
            for member in sorted(members, key=lambda m: m.filename):
                data = old.read(member)
                if member.filename.endswith(".dist-info/RECORD"):
                    lines = data.decode("utf-8").splitlines(keepends=True)
                    data = "".join(x for x in lines if not unread.match(x)).encode("utf-8")
                copy = zipfile.ZipInfo(member.filename)  # of the time 1980-01-01
                copy.external_attr, copy.compress_type = member.external_attr, method
                new.writestr(copy, data)
        yield f"wheels/{wheel.file}", path


def run(command: list[str], what: str) -> str:
    """What a command prints; raises UserError where it fails to make `what`."""
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}  # of wheels that are built here
    ran = subprocess.run(command, capture_output=True, text=True, env=env)
    if ran.returncode:
        lines = [x for x in ran.stderr.splitlines() if "rror" in x] or [ran.stderr[-300:]]
        raise UserError(f"{what} could not be made: {lines[-1]}")
    return ran.stdout
