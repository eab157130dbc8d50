"""Shared fixtures: the real small model, Mistral's real tokenizer, runs of the commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

os.environ.update({"HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1"})  # before any import

ROOT = Path(__file__).parent.parent
SMOLLM2 = ROOT / "models/smollm2-135m-instruct"
SHARED = ROOT.parent / "shared/data"
PUBLISHED = SHARED / "published/bart_large_moussaKam.txt"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the real small model; `make test` makes it."""
    if not (SMOLLM2 / "config.json").is_file():
        pytest.fail(f"{SMOLLM2} is missing; run `python scripts/get_smollm2.py` or `make test`")
    return SMOLLM2


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mistral's real tokenizer with a random model of width 64."""
    from tests.mistral import save_mistral

    folder = tmp_path_factory.mktemp("models") / "tiny-mistral"
    save_mistral(folder)
    return folder


def command(*args: object, timeout: int = 900) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment in the repository's root."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(arg) for arg in args], cwd=ROOT, env={**os.environ, "PATH": path},
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def train(recipe: Path, **overrides: object) -> None:
    """Run the launch line of the README; fail with Axolotl's own last words."""
    flags = [part for key, value in overrides.items() for part in (f"--{key}", value)]
    done = command("accelerate", "launch", "-m", "axolotl.cli.train", recipe, *flags)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def derived_recipe(of: str, folder: Path, name: str, **overrides: object) -> Path:
    """Write a recipe that differs from `recipes/<of>.yml` in its folders and `overrides`.

    A key such as `summarization__source` sets a key of a block.
    """
    config = yaml.safe_load((ROOT / f"recipes/{of}.yml").read_text("utf-8"))
    config["datasets"][0]["path"] = str(folder / "data/train.jsonl")
    config["test_datasets"][0]["path"] = str(folder / "data/validation.jsonl")
    config["output_dir"] = str(folder / "output")
    for key, value in overrides.items():
        block, _, inner = key.partition("__")
        if inner:
            config[block][inner] = value
        else:
            config[key] = value
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path
