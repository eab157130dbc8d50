"""The records of a run are compared with each other; each refusal names the command to run."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.recipe import load_recipe
from scripts.model_card import read_records
from tests.run_records import NAME

OUTPUT, RESULTS = Path(f"outputs/{NAME}"), Path(f"results/{NAME}")
SCORES = RESULTS / "scores.json"


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def test_all_of_a_finished_run(run: Path) -> None:
    records = read_records(load_recipe(f"{NAME}.yml"))
    assert records.scores.examples == 40
    assert records.training["global_step"] == 40
    assert records.run["precision"] == {"bf16": True, "fp16": False}
    for name in ("trainer_state.json", "run.json", "trained_with.json"):
        (OUTPUT / name).unlink()  # somebody else's training
    records = read_records(load_recipe(f"{NAME}.yml"))
    assert (records.training, records.run) == ({}, {})


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (Path(f"data/{NAME}/manifest.json"), f"missing; run `python -m data_prep {NAME}.yml`"),
        (
            OUTPUT / "adapter_model.safetensors",
            "no trained adapter there; train one with `accelerate launch -m axolotl.cli.train "
            f"{NAME}.yml`",
        ),
        (SCORES, "scores.json: No such file or directory; run `python -m eval.run`"),
    ],
)
def test_a_step_that_was_not_taken(run: Path, missing: Path, message: str) -> None:
    missing.unlink()
    with pytest.raises(UserError, match=re.escape(message)):
        read_records(load_recipe(f"{NAME}.yml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(recipe="other"), "is of recipe other, test split, 40 rows; run"),
        (lambda s: s.update(split="validation"), "validation split, 40 rows; run"),
        (lambda s: s.update(examples=5), "number of test dialogues was 5 and is 40; run"),
        (lambda s: s["systems"].pop("base"), "lacks the result of base; run"),
        (lambda s: s.pop("systems"), "scores.json: cannot be read"),
        (lambda s: s["systems"]["tuned"].pop("fields"), "scores.json: cannot be read"),
        (lambda s: s["systems"]["tuned"]["fields"].update(adapter="0" * 8), "adapter was 00000000"),
        (lambda s: s["systems"]["tuned"]["fields"].update(data="0" * 8), "test data was 00000000"),
        (lambda s: s["decoding"].update(num_beams=4), "decoding.num_beams was 4 and is 1"),
    ],
)
def test_results_of_something_else(run: Path, change: Callable, message: str) -> None:
    edit(SCORES, change)
    with pytest.raises(UserError, match=message) as raised:
        read_records(load_recipe(f"{NAME}.yml"))
    assert "run `python -m eval.run" in str(raised.value)


def test_a_file_cut_short(run: Path) -> None:
    for path in (OUTPUT / "trainer_state.json", SCORES):
        whole = path.read_bytes()
        path.write_bytes(whole[:40])
        with pytest.raises(UserError, match=f"{path.name}: (damaged|cannot be read)"):
            read_records(load_recipe(f"{NAME}.yml"))
        path.write_bytes(whole)
    (OUTPUT / "trainer_state.json").write_text("[]", "utf-8")
    with pytest.raises(UserError, match="trainer_state.json: damaged"):
        read_records(load_recipe(f"{NAME}.yml"))


def test_a_recipe_that_was_changed_since_training(run: Path) -> None:
    recipe = Path(f"{NAME}.yml")
    text = recipe.read_text("utf-8")
    recipe.write_text(text.replace("learning_rate: 0.001", "learning_rate: 0.002"), "utf-8")
    with pytest.raises(UserError, match="not trained as .* says: learning_rate was 0.001 and is"):
        read_records(load_recipe(f"{NAME}.yml"))
    recipe.write_text(text.replace("base_model: Hugging", "base_model: Elsewhere"), "utf-8")
    read_records(load_recipe(f"{NAME}.yml"))  # what is said of a model does not change it


def test_an_adapter_that_training_did_not_end_with(run: Path) -> None:
    adapter = OUTPUT / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes() + b"x")
    with pytest.raises(UserError, match="is not the one that its training ended with"):
        read_records(load_recipe(f"{NAME}.yml"))
