"""Every GPU recipe, unchanged, trains on a CPU with a tiny random model of its architecture."""

import json
import re
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.prompt import read_examples
from data_prep.recipe import load_recipe
from scripts import dry_run as dry_run_module
from scripts.dry_run import dry_run, overrides
from scripts.random_model import PUBLISHED
from tests import forks
from tests.conftest import ROOT, command, derived_recipe

GPU_RECIPES = sorted(
    path for path in (ROOT / "recipes").glob("*.yml") if not path.stem.startswith("smollm2")
)
MAY_CHANGE = {  # model, data, size of the run, and what a CPU cannot do
    "base_model", "summarization__source", "summarization__train_rows", "max_steps",
    "sequence_len", "logging_steps", "attn_implementation", "bf16", "fp16", "tf32", "optimizer",
    "liger_rms_norm", "liger_rope", "liger_fused_linear_cross_entropy",
    "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel",
}  # fmt: skip


def test_a_dry_run_overrides_only_what_it_may() -> None:
    for path in GPU_RECIPES:
        assert overrides(load_recipe(path), Path("model")).keys() <= MAY_CHANGE


def test_a_recipe_with_its_own_columns_reads_the_sample(tmp_path: Path) -> None:
    block = {
        **load_recipe(GPU_RECIPES[0]).config["summarization"], "source": "chats.csv",
        "dialogue_column": "chat.turns", "summary_column": ["tldr", "gist"], "test_rows": 0.1,
        "instruction": "A chat about {topic}:\n{dialogue}",
    }  # fmt: skip
    path = derived_recipe(GPU_RECIPES[0].stem, tmp_path, "own", summarization=block)
    changed = overrides(load_recipe(path), Path("model"))
    keys = {key: value for key, value in changed.items() if key.startswith("summarization__")}
    block |= {key.removeprefix("summarization__"): value for key, value in keys.items()}
    path = derived_recipe(GPU_RECIPES[0].stem, tmp_path, "own", summarization=block)
    counts = prepare(load_recipe(path)).counts
    assert counts["train"].written > 100 and counts["test"].written == 8
    row = read_examples(tmp_path / "data/test.jsonl")[0]
    assert row.messages[0]["content"].startswith(f"A chat about topic:\n{row.dialogue}")


def test_every_gpu_recipe_has_a_model_to_try_it_with() -> None:
    assert {load_recipe(path).config["base_model"] for path in GPU_RECIPES} <= PUBLISHED.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [p for p in GPU_RECIPES if p.stem != "mistral_samsum_notebook"],  # QLoRA without packing
    ids=lambda p: p.stem,
)
def test_gpu_recipe_trains(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(words: list[str], cwd: Path, env: dict[str, str], **_: bool) -> CompletedProcess[str]:
        return forks.run(words, cwd=cwd, env=env)

    monkeypatch.setattr("scripts.dry_run.subprocess", SimpleNamespace(run=run))
    done = dry_run(path, tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("'loss': ") == 2
    assert "the prompt is not in the loss" in done.stdout  # preflight, at the start of training
    assert (tmp_path / f"outputs/{path.stem}/adapter_model.safetensors").is_file()
    saved = json.loads((tmp_path / f"outputs/{path.stem}/config.json").read_text("utf-8"))
    four_bit = saved.get("quantization_config", {}).get("load_in_4bit", False)
    assert four_bit == load_recipe(path).config.get("load_in_4bit", False)


@pytest.mark.slow
@pytest.mark.longest
def test_fsdp2_on_two_processes(tmp_path: Path) -> None:
    """With the block of docs/distributed.md on the command line."""
    block = (ROOT / "recipes/distributed/fsdp2.json").read_text("utf-8")
    flags = ["--fsdp_version", "2", "--fsdp_config", block]
    done = dry_run(ROOT / "recipes/mistral_samsum.yml", tmp_path, 2, flags)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("'loss': ") == 2
    assert (tmp_path / "outputs/mistral_samsum/adapter_model.safetensors").is_file()


# ---- the full-size dry run ----

STEPS = ["model", "prepare", "preflight", "train", "evaluate", "merge"]


def full_size(*args: object) -> tuple[int, str, str]:
    """Run `scripts.dry_run --full-size`; return exit code, stdout and stderr."""
    done = command("python", "-m", "scripts.dry_run", *args, "--full-size")
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.parametrize("name", ["mistral_samsum_qlora", "mistral_samsum_notebook"])
def test_a_full_size_dry_run_of_small_width(name: str, tmp_path: Path) -> None:
    asked = (ROOT / f"recipes/{name}.yml", "--width", 64, "--keep", tmp_path)
    code, printed, errors = full_size(*asked)
    assert code == 0, errors
    rows = [line.split() for line in printed.splitlines()[1:] if not line.startswith(" ")]
    assert [row[0] for row in rows] == STEPS
    assert all(0.2 < float(row[2]) < 10 for row in rows), printed
    log = (tmp_path / f"{name}-train.log").read_text("utf-8")
    assert log.count("'loss': ") == 2
    saved = json.loads((tmp_path / f"outputs/{name}/config.json").read_text("utf-8"))
    assert saved["quantization_config"]["load_in_4bit"] is True
    results = tmp_path / f"results/{name}/test-first-3"
    scores = json.loads((results / "scores.json").read_text("utf-8"))
    assert scores["decoding"]["max_new_tokens"] == 12
    for model in ("base", "tuned"):
        assert len((results / f"predictions.{model}.jsonl").read_text("utf-8").splitlines()) == 3
    merged = tmp_path / f"outputs/{name}/merged"
    assert json.loads((merged / "merge_proof.json").read_text("utf-8"))["good"] is True
    code, _, errors = full_size(*asked)  # a second run in the folder would mix both
    assert code == 2 and "holds an earlier run" in errors


def test_too_little_memory_and_disk_are_reported_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory: 2.7 bytes x 7,241,732,096 parameters + program; disk: two bf16 models + adapter."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=8 << 30))
    monkeypatch.setattr("scripts.dry_run.disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(UserError) as refused:
        dry_run_module.full_size(load_recipe(ROOT / "recipes/mistral_samsum.yml"), tmp_path, None)
    said = str(refused.value)
    assert "21.1 GB of memory, and 8.6 GB are available" in said
    assert re.search(r"(29|30)\.\d GB of disk, and 1.0 GB are available", said), said
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.glob("*.log"))
