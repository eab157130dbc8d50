"""What a report says beside the scores: training curves and environment."""

import json
from pathlib import Path

from eval.results import environment, training_curves


def write_state(folder: Path, *history: dict[str, float]) -> None:
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}), "utf-8")


def test_the_last_checkpoint_tells_the_whole_history(tmp_path: Path) -> None:
    first, rouge = {"step": 5, "loss": 2.0}, {"step": 10, "eval_loss": 1.5, "eval_rougeL": 30.0}
    write_state(tmp_path / "checkpoint-5", first)
    write_state(tmp_path / "checkpoint-10", first, {"step": 10, "loss": 1.8}, rouge)
    assert training_curves(tmp_path) == {
        "loss": [[5, 2.0], [10, 1.8]],
        "eval_loss": [[10, 1.5]],
        "eval_rouge": {"eval_rougeL": [[10, 30.0]]},
    }


def test_what_came_after_the_last_checkpoint_is_told(tmp_path: Path) -> None:
    first = {"step": 5, "loss": 2.0}
    write_state(tmp_path / "checkpoint-5", first)
    last = {"log_history": [first, {"step": 5, "eval_loss": 1.4}]}
    (tmp_path / "trainer_state.json").write_text(json.dumps(last), "utf-8")
    curves = training_curves(tmp_path)
    assert curves is not None and curves["eval_loss"] == [[5, 1.4]]


def test_no_readable_checkpoint_is_no_curve(tmp_path: Path) -> None:
    assert training_curves(tmp_path / "gone") is None
    write_state(tmp_path / "checkpoint-5")
    cut = tmp_path / "checkpoint-7"
    cut.mkdir()
    (cut / "trainer_state.json").write_text('{"log_hist', "utf-8")
    assert training_curves(tmp_path) is None


def test_environment_names_versions_and_no_path() -> None:
    found = environment()
    assert {"python", "torch", "rouge_score", "cpu"} <= found.keys()
    assert str(Path.home()) not in str(found) and str(Path.cwd()) not in str(found)
