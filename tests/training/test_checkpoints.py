"""Broken checkpoints: real files of torch and safetensors, truncated as by a killed process."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training.run_record import checkpoint_problem, newest_complete_checkpoint, set_aside_others

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def save(folder: Path, step: int, best: int | None = None) -> Path:
    """Write a checkpoint with the trainer's files, in the trainer's order."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"weight": torch.arange(1000.0)}, checkpoint / FILES[0])
    for name in FILES[1:]:
        torch.save({"state": torch.arange(1000.0)}, checkpoint / name)
    state = {"global_step": step, "best_model_checkpoint": best and f"x/checkpoint-{best}"}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state), "utf-8")
    return checkpoint


def test_the_newest_whole_checkpoint_is_found_by_number(tmp_path: Path) -> None:
    for step in (100, 20, 9):
        save(tmp_path, step)
    (tmp_path / "checkpoint-200").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    assert newest_complete_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("name", [*FILES, "trainer_state.json"])
def test_a_file_truncated_at_any_length_breaks_it(tmp_path: Path, name: str) -> None:
    checkpoint = save(tmp_path, 10)
    content = (checkpoint / name).read_bytes()
    assert checkpoint_problem(checkpoint) == ""
    for length in (0, 4, len(content) // 2, len(content) - 1):
        (checkpoint / name).write_bytes(content[:length])
        assert name in checkpoint_problem(checkpoint), length
    if name.endswith((".pt", ".pth")):  # one bit of the state
        place = len(content) // 2
        flipped = bytes([content[place] ^ 1])
        (checkpoint / name).write_bytes(content[:place] + flipped + content[place + 1 :])
        assert checkpoint_problem(checkpoint) == f"{name} is damaged or cut short"
    (checkpoint / name).unlink()
    assert checkpoint_problem(checkpoint)


def test_the_state_of_another_step_or_a_bad_header_breaks_it(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 10).rename(tmp_path / "checkpoint-11")
    assert "is from step 10" in checkpoint_problem(checkpoint)
    garbled = save(tmp_path, 10)
    (garbled / FILES[0]).write_bytes((20).to_bytes(8, "little") + b"x" * 5000)
    assert checkpoint_problem(garbled) == "adapter_model.safetensors is damaged or cut short"


def test_each_process_needs_its_random_state(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 10)
    assert checkpoint_problem(checkpoint, processes=2) == "has no rng_state_0.pth"
    for rank in range(2):
        torch.save({}, checkpoint / f"rng_state_{rank}.pth")
    assert checkpoint_problem(checkpoint, processes=2) == ""


def test_a_checkpoint_needs_its_best_checkpoint(tmp_path: Path) -> None:
    best, later = save(tmp_path, 10), save(tmp_path, 20, best=10)
    assert newest_complete_checkpoint(tmp_path) == later
    (best / "optimizer.pt").write_bytes(b"")
    assert "best checkpoint checkpoint-10" in checkpoint_problem(later)
    assert newest_complete_checkpoint(tmp_path) is None


def test_broken_and_newer_checkpoints_are_renamed_not_deleted(tmp_path: Path) -> None:
    kept = save(tmp_path, 10)
    broken = save(tmp_path, 20)
    (broken / "optimizer.pt").write_bytes(b"")
    lines = set_aside_others(tmp_path, kept)
    assert lines == [
        f"{broken}: optimizer.pt is damaged or cut short; set aside as set-aside-checkpoint-20"
    ]
    assert (tmp_path / "set-aside-checkpoint-20/adapter_model.safetensors").is_file()
    (tmp_path / "checkpoint-20").mkdir()
    save(tmp_path, 30)
    set_aside_others(tmp_path, kept)
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint-10", "set-aside-checkpoint-20", "set-aside-checkpoint-20.2",
        "set-aside-checkpoint-30",
    }  # fmt: skip
