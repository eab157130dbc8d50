"""The command line: bad input ends with exit code 2 and one line that says what to fix."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.errors import NO_CPU_KERNEL, run_cli
from data_prep.prepare import prepare
from data_prep.recipe import load_recipe
from tests.conftest import ROOT, derived_recipe
from tests.data_prep.corpora import (
    chats,
    error_line,
    members,
    run_data_prep,
    write_archive,
    write_folder,
    write_recipe,
)
from tests.scripts.hub import Hub

SMALL = "models/smollm2-135m-instruct"
TEXT = (ROOT / "recipes/smollm2_samsum.yml").read_text("utf-8")


def corpus(folder: Path) -> Path:
    return write_folder(folder / "corpus", chats())


# How to make the recipe, and fragments that the error line must contain.
DATA_ERRORS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "recipe missing": (lambda f: f / "none.yml", ["none.yml: ", "recipes there: none"]),
    "hub offline": (
        lambda f: write_recipe(f, "knkarthick/samsum"),
        ["knkarthick/samsum: not available on the Hub", "set `source` to a folder"]),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA_ERRORS)
def test_bad_data(tmp_path: Path, case: str) -> None:
    make, fragments = DATA_ERRORS[case]
    done = run_data_prep(make(tmp_path))
    assert done.returncode == 2, done.stderr
    line = error_line(done.stderr)
    for fragment in fragments:
        assert fragment in line
    assert not list((tmp_path / "data").glob("*")), "half-written files are left"


# A recipe's text, and fragments that the error line must contain.
RECIPE_ERRORS = {
    "not UTF-8": ("# Zo\udceb\n" + TEXT, ["is not UTF-8", "save it as UTF-8"]),
    "no block": ("seed: 7\n", ["`summarization` is missing; see recipes/smollm2_samsum.yml"]),
}  # fmt: skip


@pytest.mark.parametrize("case", RECIPE_ERRORS)
def test_bad_recipe(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    text, fragments = RECIPE_ERRORS[case]
    path = tmp_path / "recipe.yml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    monkeypatch.setattr(sys, "argv", ["data_prep", str(path)])
    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    assert ended.value.code == 2
    line = error_line(capsys.readouterr().err)
    for fragment in [str(path), *fragments]:
        assert fragment in line


def test_it_prints_the_files_that_it_wrote(tmp_path: Path) -> None:
    done = run_data_prep(write_recipe(tmp_path, corpus(tmp_path)))
    assert done.returncode == 0, done.stderr
    for split, rows in (("train", 6), ("validation", 2), ("test", 2)):
        assert f"{tmp_path}/data/{split}.jsonl: {rows} rows" in done.stdout
    assert f"{tmp_path}/data/manifest.json" in done.stdout


def test_only_a_7z_source_records_the_version_of_py7zr(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, corpus(tmp_path)))
    assert "py7zr" not in prepare(recipe).versions
    archive = write_archive(tmp_path / "corpus.7z", members(chats()))
    assert "py7zr" in prepare(load_recipe(write_recipe(tmp_path, archive))).versions


@pytest.mark.skipif(
    "avx512_bf16" not in Path("/proc/cpuinfo").read_text("utf-8"),
    reason="bitsandbytes asks the Hub only on processors with AVX512-BF16",
)
def test_no_package_asks_the_hub_for_compiled_code(tiny_smollm2: Path, tmp_path: Path) -> None:
    """With a network, without HF_HUB_OFFLINE, and with the Hub's real client."""
    path = derived_recipe("smollm2_samsum", tmp_path, "r", base_model=str(tiny_smollm2))
    prepare(load_recipe(path))
    env = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    with Hub() as hub:
        env |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "LOCAL_KERNELS": "a=b"}
        done = subprocess.run(
            [sys.executable, "-m", "training.preflight", path],
            cwd=ROOT, env=env, capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert hub.requests == []


# ---- the Makefile: the commands that make would run


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT, env=env, capture_output=True, text=True
    )


@pytest.mark.parametrize("recipe", [[], ["RECIPE=recipes/none.yml"]])
def test_make_run_without_a_recipe_prints_one_line(recipe: list[str]) -> None:
    done = make("run", *recipe)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and "recipes/mistral_samsum.yml" in done.stderr


@pytest.mark.parametrize(
    ("goal", "recipe"),
    [("run", "recipes/mistral_samsum.yml"), ("demo", "recipes/smollm2_samsum.yml")],
)
def test_make_run_sets_up_and_runs_three_commands(goal: str, recipe: str, tmp_path: Path) -> None:
    lines = make(goal, f"RECIPE={recipe}", f"VENV={tmp_path}").stdout.splitlines()
    lines = [line for line in lines if not line.startswith("make")]
    assert [line for line in lines if recipe in line] == [
        f"{tmp_path}/bin/python -m data_prep {recipe}",
        f"{tmp_path}/bin/samsum-lora train {recipe}",
        f"{tmp_path}/bin/python -m eval.run {recipe}",
    ]
    assert f"sh scripts/setup.sh {tmp_path}" in lines


@pytest.mark.parametrize(("recipe", "offline"), [("mistral_samsum", None), ("smollm2_samsum", "1")])
def test_make_run_is_offline_only_with_the_bundled_model(
    recipe: str, offline: str | None, tmp_path: Path
) -> None:
    """Read the environment of the first command from an interpreter that prints it."""
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c "
        "'import json, os; print(json.dumps(dict(os.environ)))'\n"
    )
    python.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "LOCAL_KERNELS")}
    done = subprocess.run(
        ["make", "--silent", "-o", f"{tmp_path}/.ready", "-o", f"{SMALL}/config.json", "run",
         f"RECIPE=recipes/{recipe}.yml", f"VENV={tmp_path}"],
        cwd=ROOT, env=env, capture_output=True, text=True,
    )  # fmt: skip
    seen = json.loads(done.stdout.splitlines()[0])
    assert seen.get("HF_HUB_OFFLINE") == offline
    assert seen["LOCAL_KERNELS"] == NO_CPU_KERNEL


def test_a_closed_pipe_is_not_an_error() -> None:
    code = (
        "from data_prep.errors import run_cli\n"
        "run_cli(lambda: [print(n, flush=True) for n in range(10_000)])\n"
    )
    line = f"{sys.executable} -c '{code}' | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("0\n141\n", "")
