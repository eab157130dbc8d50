"""`axolotl train`, `preprocess`, `evaluate`, `inference`, `merge-lora` and `train --sweep`."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.prepare import prepare
from data_prep.recipe import load_recipe
from tests.conftest import PIECES, ROOT, derived_recipe
from training.plugin import axolotl_command, drop_flags

BIN = Path(sys.executable).parent


def axolotl(folder: Path, *args: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run Axolotl's own command in `folder`."""
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [str(BIN / "axolotl"), *map(str, args)], cwd=folder, env=env, input=stdin,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/bin/axolotl", "merge-lora", "r.yml"], "merge-lora"),
        (["/x/axolotl/cli/merge_lora.py", "r.yml"], "merge-lora"),
        (["/x/axolotl/cli/train.py", "r.yml"], "train"),
        (["/bin/axolotl", "preprocess", "r.yml"], "preprocess"),
        (["/x/axolotl/cli/inference.py", "r.yml"], "inference"),
    ],
)
def test_the_running_command_is_recognised(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], command: str
) -> None:
    monkeypatch.setattr("sys.argv", argv)
    assert axolotl_command() == command


def test_flags_of_axolotl_are_dropped_and_keys_are_kept() -> None:
    kept = {"shard": False, "lora_rank": 4, "lora_r": 8, "base_model": "m", "output_dir": "o"}
    flags = ("debug", "debug_text_only", "debug_num_examples", "download", "iterable", "inference")
    cfg: dict[str, Any] = {**kept, **dict.fromkeys(flags, False)}
    drop_flags({"shard": False}, cfg)
    assert cfg == kept


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Path:
    """A recipe that `axolotl train` trained, with a learning rate that changes a random model."""
    folder = tmp_path_factory.mktemp("axolotl")
    path = derived_recipe(
        "smollm2_samsum", folder, "tiny", base_model=str(tiny_smollm2), max_steps=6,
        learning_rate=0.05, bf16=False,
        summarization__source=str(ROOT / "data_prep/sample"),
    )  # fmt: skip
    prepare(load_recipe(path))
    done = axolotl(folder, "preprocess", path)
    assert done.returncode == 0, done.stderr[-3000:]
    done = axolotl(folder, "train", path)
    assert done.returncode == 0, done.stderr[-3000:]
    said, log = done.stdout + done.stderr, folder / "output/debug.log"
    assert f"train {path}; Axolotl's own output is in {log}" in said
    assert "trained 6 steps, " in said and "\x1b" not in said and "\r" not in said
    for words in ("Loading prepared dataset from disk at", '\n  "base_model": '):
        assert log.read_text("utf-8").count(words) == 2 and words not in said
    return path


@pytest.mark.slow
def test_train_keeps_the_recipe_beside_the_adapter(trained: Path) -> None:
    output = load_recipe(trained).output_dir
    assert (output / "adapter_model.safetensors").is_file()
    assert (output / "recipe.yml").read_text("utf-8") == trained.read_text("utf-8")
    assert not (trained.parent / "last_run_prepared").exists()


@pytest.mark.slow
def test_evaluate_scores_the_trained_adapter_not_a_new_one(trained: Path) -> None:
    """Without our plugin, Axolotl starts a new adapter, with the loss of the base model."""
    output = load_recipe(trained).output_dir
    done = axolotl(trained.parent, "evaluate", trained)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "for summaries and ROUGE use `python -m eval.run" in done.stderr
    with (output / "eval_summary.csv").open() as file:
        losses = {row["metric"]: row["validation"] for row in csv.DictReader(file)}
    log = json.loads((output / "trainer_state.json").read_text("utf-8"))["log_history"]
    at_the_end = [entry["eval_loss"] for entry in log if "eval_loss" in entry][-1]
    assert float(losses["loss"]) == pytest.approx(at_the_end, abs=1e-3)
    assert at_the_end < math.log(PIECES) - 0.05  # a new adapter guesses among all tokens


@pytest.mark.slow
def test_inference_uses_the_trained_adapter_and_points_to_our_command(trained: Path) -> None:
    done = axolotl(trained.parent, "inference", trained, stdin="Ana: hi")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "for summaries use `python -m chat.summarize" in done.stderr


@pytest.mark.slow
def test_merge_lora_merges_the_adapter(trained: Path) -> None:
    done = axolotl(trained.parent, "merge-lora", trained)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (load_recipe(trained).output_dir / "merged/config.json").is_file()


@pytest.mark.slow
def test_commands_refuse_an_adapter_with_other_settings(trained: Path) -> None:
    config = yaml.safe_load(trained.read_text("utf-8"))
    copy = trained.with_name("copy.yml")
    copy.write_text(yaml.safe_dump({**config, "lora_r": 4}), "utf-8")
    done = axolotl(trained.parent, "merge-lora", copy)
    assert done.returncode != 0 and "lora_r was 16 and is 4" in done.stderr
    copy.write_text(yaml.safe_dump({**config, "output_dir": "untrained"}), "utf-8")
    done = axolotl(trained.parent, "evaluate", copy)
    assert "untrained: no trained adapter there" in done.stderr
    assert not (trained.parent / "untrained").exists()


@pytest.mark.slow
@pytest.mark.longest
def test_a_sweep_trains_into_folders_that_can_be_evaluated(trained: Path) -> None:
    sweep = trained.with_name("sweep.yml")
    sweep.write_text("learning_rate: [0.01, 0.02]\nmax_steps: [1]\n", "utf-8")
    done = axolotl(trained.parent, "train", trained, "--sweep", sweep)
    assert done.returncode == 0, done.stderr[-3000:]
    output = load_recipe(trained).output_dir
    rates = set()
    for name in ("sweep0001", "sweep0002"):
        kept = load_recipe(output / name / "recipe.yml")
        rates.add(kept.config["learning_rate"])
        assert kept.output_dir == output / name and kept.name == name
    assert rates == {0.01, 0.02}


@pytest.mark.slow
def test_axolotl_train_refuses_a_misspelt_key(trained: Path) -> None:
    config = yaml.safe_load(trained.read_text("utf-8"))
    typo = trained.with_name("typo.yml")
    typo.write_text(yaml.safe_dump({**config, "lora_rank": 4, "debug": True}), "utf-8")
    done = axolotl(trained.parent, "train", typo)
    lines = typo.read_text("utf-8").splitlines()
    number = next(n for n, line in enumerate(lines, 1) if line.startswith("lora_rank"))
    assert done.returncode != 0 and f"typo.yml:{number}: unknown key `lora_rank`" in done.stderr
    # a flag of the command has no effect in the file either
    assert "typo.yml: unknown key `debug`" in done.stderr
