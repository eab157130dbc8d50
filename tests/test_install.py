"""Every way to install resolves, and no package has to be compiled.

uv resolves for a fresh Linux machine, whatever is installed here. pip's dry run would download
whole wheels, including CUDA's, if a registry has no separate metadata.
"""

import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = ["", *PROJECT["optional-dependencies"]]  # "": the bare install
PYTHONS = ["3.11", "3.12"]
PLATFORM = "x86_64-manylinux_2_35"  # Ubuntu 22.04

BUILT: set[str] = set()  # by previous tests

Locked = dict[str, tuple[str, bool]]  # name: version, and whether it has a suitable wheel


def uv(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "uv", "pip", *arguments]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True)


def resolve(*arguments: str, python: str, text: str = "") -> Locked:
    done = uv(
        "compile", *arguments, "--quiet", "--format", "pylock.toml",
        "--python-version", python, "--python-platform", PLATFORM, text=text,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    packages = tomllib.loads(done.stdout)["packages"]
    return {p["name"]: (p.get("version", ""), bool(p.get("wheels"))) for p in packages}


@pytest.fixture(scope="module")
def registry() -> None:
    if not find_spec("uv"):
        pytest.skip("uv is not installed (it is in the extra `dev`)")
    done = uv("compile", "-", "--quiet", "--no-cache", "--no-deps", text="tqdm")
    if done.returncode:
        pytest.skip(f"no package registry: {done.stderr.strip().splitlines()[-1]}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "python"), [*((extra, PYTHONS[0]) for extra in EXTRAS), ("", PYTHONS[1])]
)
def test_each_extra_resolves_and_packages_without_wheels_are_plain_python(
    extra: str, python: str, registry: None, tmp_path: Path
) -> None:
    """A source package fails here if its `setup.py` imports torch or if it compiles code."""
    locked = resolve("pyproject.toml", *(["--extra", extra] if extra else []), python=python)
    assert locked["axolotl"][0] == "0.19.0"
    sources = {f"{name}=={version}" for name, (version, wheel) in locked.items() if not wheel}
    if python == PYTHONS[0] and not sources <= BUILT:
        assert_built_without_torch(sources, tmp_path)
        BUILT.update(sources)


def assert_built_without_torch(sources: set[str], folder: Path) -> None:
    done = uv("install", "--quiet", "--no-deps", "--python", sys.executable, "--target", folder,
              *sources)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not list(folder.rglob("*.so")), "compiled"


@pytest.mark.slow
def test_a_package_that_imports_torch_to_build_is_detected(registry: None, tmp_path: Path) -> None:
    """flash-attn, once in the extra `gpu`, made every install on a fresh machine fail like this."""
    with pytest.raises(AssertionError, match="Failed to build `flash-attn"):
        assert_built_without_torch({"flash-attn==2.8.3"}, tmp_path)


@pytest.mark.slow
def test_python_3_13_still_lacks_a_wheel_that_axolotl_pins(
    registry: None,
) -> None:
    """When this fails, `requires-python`, `PYTHONS` and scripts/setup.sh can allow 3.13."""
    assert PROJECT["requires-python"] == ">=3.11,<3.13"
    assert not resolve("-", python="3.13", text="axolotl==0.19.0")["zstandard"][1]
