"""ROUGE in training: its figures, trackers and early stopping, and an unchanged training."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import EarlyStoppingCallback

from data_prep.errors import UserError
from data_prep.prompt import read_examples
from data_prep.recipe import Recipe
from eval.generate import Summarizer
from eval.metrics import METRICS, mean_f1, score
from tests.training.rouge_trainer import DIALOGUES, TOKENS, figures_in, rouge_recipe, trainer_of
from training.rouge import TrainingRougeCallback, decoding_of, generation_mode, without_peft


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, shallow_smollm2: Path) -> Recipe:
    return rouge_recipe(tmp_path_factory.mktemp("rouge"), shallow_smollm2)


def random_numbers() -> list[float]:
    return [random.random(), float(np.random.rand()), torch.rand(1).item()]


def test_more_dialogues_than_validation_has_are_refused(recipe: Recipe) -> None:
    block = recipe.summarization.training_rouge.model_copy(update={"dialogues": 21})
    wanted = recipe.summarization.model_copy(update={"training_rouge": block})
    with pytest.raises(UserError, match=r"dialogues is 21, but .*validation.jsonl has 20 rows"):
        TrainingRougeCallback(Recipe(recipe.path, recipe.config, wanted))


def test_max_new_tokens_below_min_new_tokens_is_refused(recipe: Recipe) -> None:
    least = recipe.summarization.decoding.model_copy(update={"min_new_tokens": 20})
    block = recipe.summarization.model_copy(update={"decoding": least})
    with pytest.raises(UserError, match=r"max_new_tokens is 16, below decoding.min_new_tokens, 20"):
        decoding_of(Recipe(recipe.path, recipe.config, block))


@pytest.mark.parametrize("fails", [False, True])
def test_undisturbed_restores_everything(recipe: Recipe, tmp_path: Path, fails: bool) -> None:
    """After sampling from a real model with gradient checkpointing and dropout."""
    trainer = trainer_of(recipe, tmp_path)
    model: Any = trainer.model
    bare = without_peft(model)
    bare.gradient_checkpointing_enable()
    bare.enable_input_require_grads()
    model.train()
    model.get_submodule("base_model.model.model.layers.3").eval()  # modules in both modes

    def state() -> list[Any]:
        flags = [
            (name, module.training, getattr(module, "gradient_checkpointing", None))
            for name, module in model.named_modules()
        ]
        settings = [bare.config.to_dict(), bare.generation_config.to_dict()]
        weights = [(n, p.requires_grad, p.sum().item()) for n, p in model.named_parameters()]
        return [flags, settings, weights, bare.config._attn_implementation]

    before = state()
    assert len({flag for _, flag, _ in before[0]}) == 2
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random_numbers()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    try:
        with generation_mode(model):
            assert not any(module.training for module in model.modules())
            assert bare.config._attn_implementation != "sdpa"
            random_numbers()
            ids = torch.tensor([[1, 2, 3]])
            bare.generate(input_ids=ids, do_sample=True, max_new_tokens=3, use_cache=True)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert random_numbers() == expected
    assert state() == before


def test_figures_equal_those_of_evaluation(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new adapter has no effect, so evaluating the base model must give the same figures."""
    trainer = trainer_of(recipe, tmp_path)
    metrics = trainer.evaluate()
    rows = read_examples(recipe.data_dir / "validation.jsonl")[:DIALOGUES]
    decoding = recipe.summarization.decoding.model_copy(update={"max_new_tokens": TOKENS})
    summarizer = Summarizer(recipe, decoding)
    assert len(summarizer.batches(rows)) > 1
    made = {prediction.id: prediction for prediction in summarizer.summaries(rows)}
    predictions = [made[row.id].prediction for row in rows]
    expected = mean_f1(score(predictions, [row.summary for row in rows]))
    assert {metric: metrics[f"eval_{metric}"] for metric in METRICS} == expected
    assert expected["rougeL"] > 1
    assert metrics["eval_summary_tokens"] == sum(one.tokens for one in made.values()) / DIALOGUES
    assert metrics["eval_stopped"] == sum(one.stopped for one in made.values()) / DIALOGUES
    (logged,) = figures_in(trainer.state.log_history)
    assert {k: v for k, v in logged.items() if k in metrics}.items() <= metrics.items()
    assert "step 0: ROUGE" in (said := capsys.readouterr().out) and "% of training so far" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, pytest.param({"gradient_checkpointing": True, "bf16": True}, marks=pytest.mark.longest)],
)
def test_training_is_the_same_with_and_without_rouge(
    recipe: Recipe, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """With dropout, losses and adapter are bit-identical; also in bf16 with checkpointing."""
    losses, adapters = [], []
    for with_rouge in (True, False):
        trainer = trainer_of(
            recipe, tmp_path / str(with_rouge), with_rouge, max_steps=3, **settings
        )
        trainer.train()
        history = trainer.state.log_history
        assert len(figures_in(history)) == (2 if with_rouge else 0)  # the second at the end
        losses.append([(e.get("loss"), e.get("eval_loss"), e.get("grad_norm")) for e in history
                       if "eval_rougeL" not in e and "train_runtime" not in e])  # fmt: skip
        model: Any = trainer.model
        weights = model.state_dict().items()
        adapters.append({name: value for name, value in weights if "lora_" in name})
    assert losses[0] == losses[1] and len(losses[0]) == 5
    assert all(torch.equal(value, adapters[1][name]) for name, value in adapters[0].items())


@pytest.mark.slow
def test_early_stopping_uses_the_figures_and_tensorboard_shows_them(
    recipe: Recipe, tmp_path: Path
) -> None:
    """A huge learning rate ruins the model, so no later evaluation beats the first."""
    pytest.importorskip("tensorboard")
    trainer = trainer_of(
        recipe, tmp_path, learning_rate=0.05, max_steps=20, report_to=["tensorboard"],
        load_best_model_at_end=True, metric_for_best_model="eval_rougeL", greater_is_better=True,
        eval_on_start=True, eval_steps=1, save_strategy="steps", save_steps=1,
    )  # fmt: skip
    trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=2))
    trainer.train()
    history = figures_in(trainer.state.log_history)
    assert trainer.state.global_step < 20
    assert trainer.state.best_metric == max(entry["eval_rougeL"] for entry in history)
    (events,) = tmp_path.glob("runs/*")
    board = EventAccumulator(str(events)).Reload()
    shown = [event.value for event in board.Scalars("eval/rougeL")]
    assert shown == pytest.approx([entry["eval_rougeL"] for entry in history])
    texts = board.Tensors("eval/summaries/text_summary")
    rows = read_examples(recipe.data_dir / "validation.jsonl")
    for event in texts:
        text = event.tensor_proto.string_val[0].decode()
        assert text.count("### ") == 2
        assert rows[0].id in text and rows[1].summary in text
    assert [event.step for event in texts] == [entry["step"] for entry in history]


@pytest.mark.slow
def test_examples_reach_wandb(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    trainer_of(recipe, tmp_path, max_steps=2, report_to=["wandb"]).train()
    wandb.finish()
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/eval/summaries_*.table.json")
    rows = read_examples(recipe.data_dir / "validation.jsonl")[:2]
    found = json.loads(table.read_text("utf-8"))
    assert found["columns"] == ["id", "reference", "prediction"]
    assert [line[:2] for line in found["data"]] == [[row.id, row.summary] for row in rows]


@pytest.mark.slow
def test_figures_and_examples_reach_mlflow(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "rouge")
    mlflow.create_experiment("rouge", artifact_location=(tmp_path / "texts").as_uri())
    trainer_of(recipe, tmp_path, max_steps=2, report_to=["mlflow"]).train()
    run = mlflow.get_run(mlflow.last_active_run().info.run_id)
    mlflow.end_run()
    assert {"eval_rougeL", "eval_stopped", "eval_summary_tokens"} <= run.data.metrics.keys()
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/summaries/step-000002.md")
    row = read_examples(recipe.data_dir / "validation.jsonl")[0]
    assert f"### {row.id}" in text and row.summary in text
