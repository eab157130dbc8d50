"""Unpack a bundle of scripts/offline_bundle.py on a machine without network, and check it there.

    python3 bundle/unpack.py TARGET                             all of it
    python3 bundle/unpack.py TARGET --only packages,code        only what was copied
    . TARGET/env.sh                                             then: `python -m data_prep ...`

This file is `unpack.py` in the bundle. It needs only Python 3.11 or later with pip. Every part that
is needed is checked before anything is written. TARGET gets a virtual environment that also sees
the packages of the Python that runs this file; the bundle's packages come first.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from functools import partial
from pathlib import Path

CODE = "samsum-lora"
# Axolotl's packing only uses `njit` of numba. If the machine's numba and numpy are incompatible,
# plain Python packs as many rows as SAMSum has in a minute
STAND_IN = """def njit(function=None, **_):
    return function if function else (lambda inner: inner)
"""
ENVIRONMENT = """# `. env.sh`: the bundle's packages and code; nothing asks a network
cd {code}
export PATH={venv}/bin:$PATH PIP_NO_INDEX=1 PIP_FIND_LINKS={wheels}
export AXOLOTL_DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 WANDB_MODE=disabled
"""
VERIFY = """import axolotl.cli.train, axolotl, datasets, peft, torch, transformers
print("axolotl", axolotl.__version__, "transformers", transformers.__version__,
      "peft", peft.__version__, "datasets", datasets.__version__,
      "torch", torch.__version__, "CUDA", torch.cuda.is_available())
"""


class Failure(Exception):
    """A problem with the bundle or this machine, described in one line."""


def main() -> None:
    """Check, unpack, install and import; any problem is one line, with exit code 2."""
    example = "example: python unpack.py samsum --only packages,code --no-verify"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=example)
    parser.add_argument("target", type=Path, help="folder to unpack into; created if needed")
    parser.add_argument("--only", help="contents to unpack, separated by commas (default: all)")
    verify = "do not import Axolotl at the end (default: import it as a test)"
    parser.add_argument("--no-verify", action="store_true", help=verify)
    args = parser.parse_args()
    try:
        unpack(Path(__file__).resolve().parent, args.target.resolve(), args.only, args.no_verify)
    except (Failure, OSError, tarfile.TarError, LookupError, TypeError, AttributeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def unpack(bundle: Path, target: Path, only: str | None, no_verify: bool) -> None:
    """Unpack everything that is wanted and not yet unpacked into `target`."""
    path = bundle / "manifest.json"
    try:
        manifest = json.loads(path.read_text("utf-8"))
        made_for, contents = manifest["python"], manifest["contents"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Failure(f"{path}: missing or damaged ({error}); copy it again") from error
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if python != made_for:
        raise Failure(f"the bundle is for Python {made_for}, and this is {python}: use the former")
    names = [content["name"] for content in contents]
    wanted = only.split(",") if only else names
    if unknown := sorted(set(wanted) - set(names)):
        raise Failure(f"--only: no {', '.join(unknown)} in this bundle; it holds {','.join(names)}")
    done_file, digest = target / ".unpacked", sha256_of(path)
    before = done_file.read_text("utf-8").splitlines() if done_file.is_file() else []
    todo = [c for c in contents if c["name"] in wanted and f"{digest} {c['name']}" not in before]
    check_parts(bundle, [part for content in todo for part in content["parts"]])
    target.mkdir(parents=True, exist_ok=True)
    for content in todo:
        extract([bundle / part["name"] for part in content["parts"]], target)
        if content["name"] == "code" and shutil.which("git"):
            # with an index git sees the files as unchanged, so that scores.json can name the commit
            git = ["git", "-c", f"safe.directory={target / CODE}", "-C", str(target / CODE)]
            subprocess.run([*git, "reset", "--quiet"], check=False)
        elif content["name"] == "packages":
            install(target, manifest)
        with done_file.open("a", encoding="utf-8") as file:
            file.write(f"{digest} {content['name']}\n")
        print(f"{content['name']}: unpacked", flush=True)
    paths = {"code": target / CODE, "venv": target / "venv", "wheels": target / "wheels"}
    (target / "env.sh").write_text(ENVIRONMENT.format(**paths), "utf-8")
    if (target / "venv").is_dir() and not no_verify:
        verify(target)
    print(f"ready: . {target / 'env.sh'}")


def check_parts(bundle: Path, parts: list[dict]) -> None:
    """Raise Failure, listing all missing or damaged parts, unless every part is complete."""
    problems = []
    for part in parts:
        path = bundle / part["name"]
        if not path.is_file():
            problems.append(f"{part['name']} is missing")
        elif path.stat().st_size != part["size"] or sha256_of(path) != part["sha256"]:
            problems.append(f"{part['name']} is damaged ({path.stat().st_size} bytes)")
    if problems:
        raise Failure(f"{bundle}: {', '.join(problems)}; copy it again")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extract(parts: list[Path], target: Path) -> None:
    """Join the parts of a tar and unpack it."""
    with tempfile.TemporaryFile(dir=target) as joined:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, joined)
        joined.seek(0)
        with tarfile.open(fileobj=joined) as tar:
            if hasattr(tarfile, "data_filter"):  # not in 3.11.0 to 3.11.3
                tar.extractall(target, filter="data")
            else:
                tar.extractall(target)


def install(target: Path, manifest: dict) -> None:
    """Create the environment and install the bundle's wheels, without any package index."""
    venv_folder = target / "venv"
    shutil.rmtree(venv_folder, ignore_errors=True)
    venv.create(venv_folder, with_pip=False, symlinks=True)
    python = venv_folder / "bin/python"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    packages = venv_folder / f"lib/python{version}/site-packages"
    # not --system-site-packages: if this Python belongs to a virtual environment itself, that would
    # show the packages of the Python below it
    paths = [*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    lines = [str(target / CODE), *dict.fromkeys(paths)]
    (packages / "bundle.pth").write_text("\n".join(lines) + "\n", "utf-8")
    run = partial(subprocess.run, capture_output=True, text=True)
    pip = [str(python), "-m", "pip"]
    if run([*pip, "--version"]).returncode:
        installed = run([str(python), "-m", "ensurepip"])
        if installed.returncode:
            raise Failure(f"{sys.executable} has neither pip nor ensurepip; install pip there")
    wheels = [str(target / "wheels" / name) for name in manifest["install"]]
    # --ignore-installed: if this Python already has a package in the same version, its commands
    # (accelerate) are elsewhere
    flags = ["--no-index", "--no-deps", "--ignore-installed", "--no-compile", "--quiet"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHONPATH"))}
    result = run([*pip, "install", *flags, *wheels], env=env)
    if result.returncode:
        errors = re.findall(r"ERROR: (.*)", result.stderr) or [result.stderr[-300:]]
        raise Failure(f"pip could not install the wheels: {errors[0]}")
    # on all cores: otherwise the first import would take as long as everything else
    run([str(python), "-m", "compileall", "-q", "-j", "0", str(packages)])
    if run([str(python), "-c", "import numba"]).returncode:
        (packages / "numba").mkdir(exist_ok=True)
        (packages / "numba/__init__.py").write_text(STAND_IN, "utf-8")
        print("numba cannot be imported here: plain Python replaces it", flush=True)


def verify(target: Path) -> None:
    """Import the packages that training imports, and print their versions."""
    env = {**os.environ, "AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    env.pop("PYTHONPATH", None)
    command = [str(target / "venv/bin/python"), "-c", VERIFY]
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    if result.returncode:
        raise Failure(f"Axolotl cannot be imported: {(result.stderr.splitlines() or ['?'])[-1]}")
    print(result.stdout.splitlines()[-1])  # the lines before are printed by packages on import


if __name__ == "__main__":
    main()
