"""The launch line run again: after Ctrl-C, after the end, and with other settings."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.prepare import prepare
from data_prep.recipe import Recipe, load_recipe
from tests import forks
from tests.conftest import LAUNCH, ROOT, derived_recipe, launch, train
from training.run_record import checkpoints, newest_complete_checkpoint

pytestmark = pytest.mark.slow
SMALL = {
    "bf16": False, "num_epochs": 2, "micro_batch_size": 1, "lora_dropout": 0.1, "save_steps": 2,
    "eval_steps": 8, "logging_steps": 3, "summarization__train_rows": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Recipe:
    folder = tmp_path_factory.mktemp("again")
    path = derived_recipe("smollm2_samsum", folder, "again", base_model=str(tiny_smollm2), **SMALL)
    recipe = load_recipe(path)
    prepare(recipe)
    return recipe


def interrupt(recipe: Recipe, number: int) -> subprocess.CompletedProcess[str]:
    """Train, and send a signal to all processes, as a terminal does, after the first checkpoint."""
    process = forks.Fork([*LAUNCH, recipe.path])
    deadline = time.monotonic() + 300
    while not checkpoints(recipe.output_dir) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, number)
    return process.finish(120)


@pytest.fixture(scope="module")
def interrupted(recipe: Recipe) -> str:
    """The stderr of a training that got Ctrl-C."""
    return interrupt(recipe, signal.SIGINT).stderr


def test_a_lost_connection_saves_a_checkpoint(tmp_path: Path, tiny_smollm2: Path) -> None:
    path = derived_recipe("smollm2_samsum", tmp_path, "r", base_model=str(tiny_smollm2), **SMALL)
    recipe = load_recipe(path)
    prepare(recipe)
    done = interrupt(recipe, signal.SIGHUP)
    saved = checkpoints(recipe.output_dir)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert saved[-1] == newest_complete_checkpoint(recipe.output_dir)
    assert f"interrupted: {saved[-1]} is saved" in done.stderr  # in a file; a terminal is gone


def test_ctrl_c_saves_a_checkpoint_and_says_how_to_resume(recipe: Recipe, interrupted: str) -> None:
    saved = newest_complete_checkpoint(recipe.output_dir)
    assert saved and f"interrupted: {saved} is saved" in interrupted
    assert "to resume, run the same command again" in interrupted
    assert not (recipe.output_dir / "adapter_model.safetensors").exists()


def test_the_same_command_resumes_and_then_there_is_nothing_to_do(
    recipe: Recipe, interrupted: str
) -> None:
    saved = newest_complete_checkpoint(recipe.output_dir)
    (recipe.output_dir / "checkpoint-99").mkdir()
    done = train(recipe.path)
    assert f"resuming from {saved}" in done.stderr
    assert "its save was cut short (no trainer_state.json); set aside as" in done.stderr
    assert (recipe.output_dir / "set-aside-checkpoint-99").is_dir()
    state = json.loads((recipe.output_dir / "trainer_state.json").read_text("utf-8"))
    assert state["global_step"] == 32
    before = _contents(recipe.output_dir)
    again = train(recipe.path)
    assert "already trained by this recipe on this data, 32 steps" in again.stdout
    assert _contents(recipe.output_dir) == before


@pytest.mark.longest
def test_a_chosen_checkpoint_resumes_only_with_its_own_settings(
    recipe: Recipe, interrupted: str, tmp_path: Path
) -> None:
    """Its optimizer and schedule would keep the old learning rate; run.json would have the new."""
    train(recipe.path)  # finish the run if it is not finished yet
    first = checkpoints(recipe.output_dir)[0]
    before = _contents(recipe.output_dir)
    changed = {"learning_rate": 0.0001, "micro_batch_size": 2}
    done = launch(recipe.path, resume_from_checkpoint=first, **changed)
    assert done.returncode != 0
    assert "learning_rate was 0.001 and is 0.0001; micro_batch_size was 1 and is 2" in done.stderr
    assert f"`--lora_model_dir {first} --output_dir FOLDER` instead" in done.stderr
    assert _contents(recipe.output_dir) == before
    # the command suggested by that line
    other = tmp_path / "other"
    train(recipe.path, lora_model_dir=first, output_dir=other, max_steps=2, logging_steps=1,
          **changed)  # fmt: skip
    settings = json.loads((other / "run.json").read_text("utf-8"))["settings"]
    assert settings["learning_rate"] == 0.0001 and settings["lora_model_dir"] == str(first)
    log = json.loads((other / "trainer_state.json").read_text("utf-8"))["log_history"]
    rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
    assert rates and max(rates) <= 0.0001
    # with its own settings, it ends with the same adapter as the run
    train(recipe.path, resume_from_checkpoint=first)
    adapter = "adapter_model.safetensors"
    assert (recipe.output_dir / adapter).read_bytes() == before[adapter]


def test_other_settings_are_refused_until_a_new_run_is_requested(
    recipe: Recipe, interrupted: str
) -> None:
    before = _contents(recipe.output_dir)
    done = launch(recipe.path, lora_r=4)
    assert done.returncode != 0
    assert "was trained differently: lora_r was 16 and is 4; set another output_dir" in done.stderr
    assert _contents(recipe.output_dir) == before
    done = train(recipe.path, lora_r=4, max_steps=2, auto_resume_from_checkpoints=False)
    aside = recipe.output_dir.with_name(f"{recipe.output_dir.name}-set-aside")
    assert f"the earlier run is now in {aside}" in done.stdout
    kept = _contents(aside)
    assert kept and kept.items() <= before.items()
    config = json.loads((recipe.output_dir / "adapter_config.json").read_text("utf-8"))
    assert config["r"] == 4


def _contents(folder: Path) -> dict[str, bytes]:
    paths = (p for p in folder.rglob("*") if p.is_file() and p.name not in ("debug.log", ".lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_final_adapter_is_the_checkpoint_with_the_best_rouge(
    tmp_path: Path, tiny_smollm2: Path
) -> None:
    """A model that hardly learns scores the same in each evaluation, so the first is the best."""
    path = derived_recipe(
        "smollm2_best_checkpoint", tmp_path, "best", base_model=str(tiny_smollm2), bf16=False,
        max_steps=6, eval_steps=2, save_steps=2, learning_rate=1e-6, summarization__train_rows=24,
        summarization__training_rouge={"dialogues": 2, "max_new_tokens": 4},
    )  # fmt: skip
    recipe = load_recipe(path)
    prepare(recipe)
    done = train(path)
    assert "on 2 validation dialogues" in done.stdout + done.stderr
    state = json.loads((recipe.output_dir / "trainer_state.json").read_text("utf-8"))
    figures = [entry["eval_rougeL"] for entry in state["log_history"] if "eval_rougeL" in entry]
    assert len(figures) == 3 and len(set(figures)) == 1 and state["best_global_step"] == 2
    adapter = (recipe.output_dir / "adapter_model.safetensors").read_bytes()
    name = "adapter_model.safetensors"
    assert adapter == (recipe.output_dir / "checkpoint-2" / name).read_bytes()
    assert adapter != (recipe.output_dir / "checkpoint-6" / name).read_bytes()


@pytest.mark.longest
def test_two_processes_train_like_one(tmp_path: Path, tiny_smollm2: Path) -> None:
    """With gloo on a CPU: one process accumulates two batches, two processes take one each."""
    runs = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        path = derived_recipe(
            "smollm2_samsum", folder, "ddp", base_model=str(tiny_smollm2), bf16=False,
            group_by_length=False, micro_batch_size=1, gradient_accumulation_steps=2 // processes,
            logging_steps=1, max_steps=6, summarization__train_rows=16,
        )  # fmt: skip
        prepare(load_recipe(path))
        done = subprocess.run(
            [Path(sys.executable).with_name("torchrun"), "--nproc-per-node", str(processes),
             "-m", "axolotl.cli.train", path],
            cwd=ROOT, capture_output=True, text=True, timeout=600,
            env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        state = json.loads((folder / "output/trainer_state.json").read_text("utf-8"))
        runs[processes] = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(runs[1]) == 6 and len(set(runs[1])) == 6
    assert runs[2] == pytest.approx(runs[1], rel=1e-6)
