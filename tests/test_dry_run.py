"""Every GPU recipe trains on a CPU, the very file, with a tiny random model of its architecture."""

import json
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
