"""Shared fixtures: models, a finished run and a browser; functions that run commands."""

import atexit
import functools
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import absl.logging
import colorama
import pytest
import yaml

from tests import forks
from tests.browser import CHROMIUM

os.environ.update({"HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1"})  # before any import
# compiling Axolotl's packing takes ten seconds per start; the tests have too few rows to need it
os.environ["NUMBA_DISABLE_JIT"] = "1"
# importing axolotl.cli calls this, and it would wrap a test's stdout, which pytest closes later
colorama.init = lambda *_, **__: None
# importing axolotl.cli also closes all logging handlers; absl's (imported by rouge_score) would
# close the stream that pytest captures if a test has replaced stderr
absl.logging.get_absl_handler().python_handler.close = lambda: None  # type: ignore[method-assign]

ROOT = Path(__file__).parent.parent
LAUNCH = ("accelerate", "launch", "-m", "axolotl.cli.train")
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
SLOWEST_FIRST = (  # these files run first, so that no worker starts one of them at the end
    "test_train.py", "test_dry_run.py", "test_train_again.py", "test_training_rouge.py",
    "test_training_rouge_launched.py", "test_generate.py", "test_resume.py", "test_summarize.py",
    "test_refusals.py", "test_axolotl_commands.py", "test_merge.py", "test_kill_and_resume.py",
)  # fmt: skip
SMOLLM2 = ROOT / "models/smollm2-135m-instruct"
PIECES = 4000  # tokens in the reduced tokenizer, of 49,152
SHARED = ROOT.parent / "shared/data"
PUBLISHED = SHARED / "published/bart_large_moussaKam.txt"


def pytest_configure() -> None:
    """Give each worker its own core: two programs with two threads each are slow on two cores."""
    if WORKER and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(WORKER.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slowest files; keep the order within a file."""
    order = {name: place for place, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2, which `make test` creates."""
    if not (SMOLLM2 / "config.json").is_file():
        pytest.fail(f"{SMOLLM2} is missing; run `python scripts/get_smollm2.py` or `make test`")
    return SMOLLM2


@pytest.fixture(scope="session")
def shallow_smollm2(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    """The first six of SmolLM2's thirty layers, for tests that any model can pass."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models") / "shallow-smollm2"
    shutil.copytree(smollm2, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(smollm2, num_hidden_layers=6, dtype=torch.float32)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mistral's real tokenizer with a random model of hidden size 64."""
    from scripts.random_model import save

    folder = tmp_path_factory.mktemp("models") / "tiny-mistral"
    save("mistralai/Mistral-7B-Instruct-v0.2", folder, 64)
    return folder


@pytest.fixture(scope="session")
def tiny_smollm2(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    """SmolLM2's reduced tokenizer with a random model of two layers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(smollm2)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 64, 128, 2
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 4, 2, 16
    config.layer_types, config.vocab_size = None, PIECES
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny-smollm2"
    shutil.copytree(small_tokenizer(), folder)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@functools.cache
def small_tokenizer() -> Path:
    """Return a folder with 4,000 of SmolLM2's tokens; this tokenizer loads a second faster."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path in SMOLLM2.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    settings = json.loads((SMOLLM2 / "tokenizer.json").read_text("utf-8"))
    model = settings["model"]
    model["vocab"] = {piece: number for piece, number in model["vocab"].items() if number < PIECES}
    pairs = (merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"])
    model["merges"] = [pair for pair in pairs if "".join(pair) in model["vocab"]]
    (folder / "tokenizer.json").write_text(json.dumps(settings), "utf-8")
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Path:
    """A folder in which a recipe was prepared, "trained" and scored; tests use a copy, `run`."""
    from tests.run_records import make_run

    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_run(folder, tiny_smollm2)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; closed after each module, since its event loop disturbs other tests."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def run(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A test's own copy of `finished_run`, which is also the working directory."""
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    monkeypatch.chdir(folder)
    return folder


def command(
    *args: object, timeout: int = 900, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment, by default in the repository's root.

    `python -m` and `python -c` run in a fork (tests/forks.py), `sys.executable` in a new process.
    """
    if args[0] == "python" and args[1] in ("-m", "-c"):
        return forks.run(args, cwd=cwd, timeout=timeout)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(arg) for arg in args], cwd=cwd, env={**os.environ, "PATH": path},
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def run_module(module: str, *args: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE` in this process, since importing torch takes seconds."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [module, *map(str, args)])
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


def launch(recipe: Path, **overrides: object) -> subprocess.CompletedProcess[str]:
    """Run the README's launch command in a fork."""
    flags = [part for key, value in overrides.items() for part in (f"--{key}", value)]
    return forks.run([*LAUNCH, recipe, *flags])


def train(recipe: Path, **overrides: object) -> subprocess.CompletedProcess[str]:
    """Run the README's launch command; on failure, show the end of Axolotl's output."""
    done = launch(recipe, **overrides)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def derived_recipe(of: str, folder: Path, name: str, **overrides: object) -> Path:
    """Write a copy of `recipes/<of>.yml` with other folders and with `overrides`.

    A key such as `summarization__source` sets a key in a block.
    """
    config = yaml.safe_load((ROOT / f"recipes/{of}.yml").read_text("utf-8"))
    if "eval_steps" in overrides:
        config.pop("eval_strategy", None)
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
