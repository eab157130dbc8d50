"""Every GPU recipe trains on a CPU, the very file, with a tiny random model of its architecture."""

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.recipe import load_recipe
from scripts.dry_run import dry_run, overrides
from scripts.random_model import PUBLISHED
from tests.conftest import ROOT

GPU_RECIPES = sorted(
    path for path in (ROOT / "recipes").glob("*.yml") if not path.stem.startswith("smollm2")
)
MAY_CHANGE = {  # model, data, size of the run, and what a CPU cannot do
    "base_model", "summarization__source", "summarization__train_rows", "max_steps",
    "sequence_len", "logging_steps", "attn_implementation", "bf16", "fp16", "tf32", "optimizer",
    "liger_rms_norm", "liger_rope", "liger_fused_linear_cross_entropy",
    "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel",
}  # fmt: skip


def test_a_dry_run_overrides_nothing_else() -> None:
    for path in GPU_RECIPES:
        flags = list(overrides(load_recipe(path), Path("model")))
        assert {flag.removeprefix("--") for flag in flags[::2]} <= MAY_CHANGE
        assert len(flags) == 2 * len(set(flags[::2]))


def test_every_gpu_recipe_has_a_model_to_try_it_with() -> None:
    assert {load_recipe(path).config["base_model"] for path in GPU_RECIPES} <= PUBLISHED.keys()


@pytest.mark.slow
@pytest.mark.parametrize("path", GPU_RECIPES, ids=lambda p: p.stem)
def test_it_trains(path: Path, tmp_path: Path) -> None:
    done = dry_run(path, tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("'loss': ") == 4
    assert "the prompt is not in the loss" in done.stdout  # preflight, at the start of training
    assert (tmp_path / f"outputs/{path.stem}/adapter_model.safetensors").is_file()
    saved = json.loads((tmp_path / f"outputs/{path.stem}/config.json").read_text("utf-8"))
    four_bit = saved.get("quantization_config", {}).get("load_in_4bit", False)
    assert four_bit == load_recipe(path).config.get("load_in_4bit", False)


@pytest.mark.slow
def test_fsdp2_on_two_processes(tmp_path: Path) -> None:
    """The block of docs/distributed.md, on the launch line."""
    block = (ROOT / "recipes/distributed/fsdp2.json").read_text("utf-8")
    flags = ["--fsdp_version", "2", "--fsdp_config", block]
    done = dry_run(ROOT / "recipes/mistral_samsum.yml", tmp_path, 2, flags)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("'loss': ") == 4
    assert (tmp_path / "outputs/mistral_samsum/adapter_model.safetensors").is_file()


# ---------------------------------------------------------------- the whole way at full size

STEPS = ["model", "prepare", "preflight", "train", "evaluate", "merge"]


def full_size(*args: object, memory: int = resource.RLIM_INFINITY) -> tuple[int, str, str]:
    """Exit code and output of `scripts.dry_run --full-size`, with that many bytes at most."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    command = [sys.executable, "-m", "scripts.dry_run", *map(str, args), "--full-size"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mistral_samsum_qlora"])
def test_the_whole_way_with_a_small_width(name: str, tmp_path: Path) -> None:
    asked = (ROOT / f"recipes/{name}.yml", "--width", 64, "--keep", tmp_path)
    code, printed, errors = full_size(*asked)
    assert code == 0, errors
    rows = [line.split() for line in printed.splitlines()[1:] if not line.startswith(" ")]
    assert [row[0] for row in rows] == STEPS
    assert all(float(row[2]) <= float(row[3]) < 10 for row in rows), printed
    log = (tmp_path / f"{name}-train.log").read_text("utf-8")
    assert log.count("'loss': ") == 2
    results = tmp_path / f"results/{name}/test-first-3"
    scores = json.loads((results / "scores.json").read_text("utf-8"))
    assert scores["decoding"]["max_new_tokens"] == 12
    for model in ("base", "tuned"):
        assert len((results / f"predictions.{model}.jsonl").read_text("utf-8").splitlines()) == 3
    merged = tmp_path / f"outputs/{name}/merged"
    assert json.loads((merged / "merge_proof.json").read_text("utf-8"))["good"] is True
    code, _, errors = full_size(*asked)  # the same folder again would mix two runs
    assert code == 2 and "holds an earlier run" in errors


@pytest.mark.slow
def test_too_little_memory_is_said_before_anything_is_made(tmp_path: Path) -> None:
    """The limit is a real one: with it, the model could not be made."""
    recipe = ROOT / "recipes/mistral_samsum.yml"
    code, printed, errors = full_size(recipe, "--keep", tmp_path, memory=8 << 30)
    assert code == 2 and printed == ""
    said = re.search(r"about 21.1 GB of memory, and ([\d.]+) GB are available", errors)
    assert said and float(said[1]) <= 8.6, errors
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.glob("*.log"))


@pytest.mark.slow
def test_too_little_disk_is_said_too() -> None:
    small = Path("/dev/shm")
    if not small.is_dir() or shutil.disk_usage(small).free > 29e9:
        pytest.skip("no file system here is too small for two models of 14.5 GB")
    folder = small / "samsum-lora-test"
    try:
        code, printed, errors = full_size(ROOT / "recipes/mistral_samsum.yml", "--keep", folder)
        assert code == 2 and printed == ""
        assert "GB of disk" in errors.splitlines()[-1]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
