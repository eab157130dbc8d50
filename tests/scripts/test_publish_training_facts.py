"""The card's figures of a training: as recorded, or `not measured`."""

from typing import Any

import pytest

from eval.scores import Scores
from scripts.model_card import settings_rows, training_rows
from tests.conftest import ROOT

SCORES = Scores.read(ROOT / "results/smollm2_samsum_corpus/scores.json")
SCORES.environment = {"cpu": "AMD EPYC, 2 cores", "gpu": "A100 x 1"}
SCORES.systems["base"].seconds = 742.1
SCORES.systems["tuned"].seconds = None


def test_settings_that_the_recipe_names() -> None:
    config = {"lora_r": 16, "lora_target_modules": ["q_proj", "v_proj"], "sample_packing": True}
    rows = settings_rows({**config, "bf16": True}, {"settings": {"processes": 2}})
    assert rows == [
        ("rank", "16"),
        ("target modules", "q_proj, v_proj"),
        ("packing", "yes"),
        ("processes", "2"),
        ("precision", "bf16"),
    ]


@pytest.mark.parametrize(
    ("config", "taken", "expected"),
    [
        ({"bf16": "auto"}, {"bf16": True, "fp16": False}, "bf16"),
        ({"bf16": "auto"}, {"bf16": False, "fp16": False}, "fp32"),
        ({"bf16": "auto"}, {"bf16": "auto", "fp16": None}, "chosen by the machine (bf16: auto)"),
        ({"bf16": "auto"}, {}, "chosen by the machine (bf16: auto)"),
        ({"fp16": True}, {}, "fp16"),
        ({}, {}, "fp32"),
        ({"bf16": True, "load_in_4bit": True}, {}, "bf16, load_in_4bit"),
    ],
)
def test_precision(config: dict[str, Any], taken: dict[str, Any], expected: str) -> None:
    assert settings_rows(config, {"precision": taken})[-1] == ("precision", expected)


def test_what_was_measured_and_what_was_not() -> None:
    history: list[Any] = [{"loss": 2.0}, "damaged"]
    history += [{"eval_loss": 1.625}, {"train_runtime": 3540.0, "train_loss": 1.7512}]
    trained = {"machine": "A100 x 2", "peak_memory_gb": 21.25}
    rows = dict(training_rows({"global_step": 995, "log_history": history}, trained, SCORES))
    assert rows["steps"] == "995" and rows["training time, since its last start"] == "59 min"
    assert rows["mean training loss"] == "1.751" and rows["last validation loss"] == "1.625"
    assert rows["peak memory of training"] == "21.2 GB"
    assert rows["machine of the training"] == "A100 x 2"
    assert (
        rows["generation of the test summaries, all processes"]
        == "12 min, not measured (base, tuned)"
    )
    assert rows["machine of the evaluation"] == "A100 x 1"
    nothing = dict(training_rows({}, {}, SCORES))
    assert nothing["machine of the training"] == "not recorded"
    assert nothing["steps"] == nothing["last validation loss"] == "not recorded"
    assert nothing["training time, since its last start"] == nothing["energy"] == "not measured"
    assert nothing["peak memory of training"] == "not measured"
