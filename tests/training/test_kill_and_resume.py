"""After kill -9 at random moments, the same command ends with the bytes of an undisturbed run."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from data_prep.prepare import prepare
from data_prep.recipe import load_recipe
from tests import forks
from tests.conftest import LAUNCH, derived_recipe, train
from training.run_record import checkpoints, newest_complete_checkpoint

KILLS = 3
SMALL: dict[str, Any] = {
    "bf16": False,
    "num_epochs": 2,  # so that some restarts are in the second epoch
    "micro_batch_size": 1,
    "lora_dropout": 0.1,  # so that the random state matters
    "logging_steps": 3,  # not a divisor of save_steps, so that the loss between two logs matters
    "save_steps": 2,
    "eval_steps": 8,
    "save_total_limit": 2,
    "summarization__train_rows": 8,
}


def run(folder: Path, model: Path) -> Path:
    """Prepare a recipe with its own folders."""
    folder.mkdir()
    path = derived_recipe("smollm2_samsum", folder, "run", base_model=str(model), **SMALL)
    prepare(load_recipe(path))
    return path


def kill_once(recipe: Path, output: Path, rng: random.Random, seconds: float) -> bool:
    """Start the launch line and kill it in a save or at a random moment; return whether it was.

    It must resume from the newest whole checkpoint of the earlier starts.
    """
    before = newest_complete_checkpoint(output)
    known = {path.name for path in checkpoints(output)}
    process = forks.Fork([*LAUNCH, recipe])
    saving = rng.random() < 0.7  # mostly in a save, which breaks a checkpoint
    end = time.monotonic() + (600 if saving else rng.uniform(0, seconds))
    while process.poll() is None and time.monotonic() < end:
        if saving and any(path.name not in known for path in output.glob("checkpoint-*")):
            time.sleep(rng.uniform(0, 0.06))
            break
        time.sleep(0.001)
    hit = process.poll() is None
    if hit:
        os.killpg(process.pid, signal.SIGKILL)
    said = process.finish(60).stderr.splitlines()
    resumed = [line for line in said if line.startswith("resuming from ")]
    assert resumed in ([], [f"resuming from {before}"])  # [] if killed before this line
    return hit


def result(output: Path) -> dict[str, Any]:
    """Return what must be equal: the adapter's bytes, and every loss with its step."""
    history = json.loads((output / "trainer_state.json").read_text("utf-8"))["log_history"]
    keys = ("loss", "eval_loss", "grad_norm", "learning_rate", "train_loss")
    return {
        "adapter": (output / "adapter_model.safetensors").read_bytes(),
        "losses": [(entry["step"], k, entry[k]) for entry in history for k in keys if k in entry],
    }


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_bytes(tmp_path: Path, tiny_smollm2: Path) -> None:
    recipe = run(tmp_path / "undisturbed", tiny_smollm2)
    start = time.monotonic()
    train(recipe)
    seconds = time.monotonic() - start
    whole = result(recipe.parent / "output")
    assert len(whole["losses"]) > 10

    recipe = run(tmp_path / "killed", tiny_smollm2)
    output, rng = recipe.parent / "output", random.Random(1)
    kills = sum(kill_once(recipe, output, rng, seconds) for _ in range(KILLS))
    assert kills >= 2
    train(recipe)
    killed = result(output)
    assert killed["losses"] == whole["losses"]
    assert killed["adapter"] == whole["adapter"]
