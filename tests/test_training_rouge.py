"""Generated ROUGE in training: the figures, what is left as it was, the trackers, the best one."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
)

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.prompt import PromptEncoder, read_rows
from data_prep.recipe import Recipe, load_recipe
from eval.generate import Summarizer
from eval.model_in_training import undisturbed, without_peft
from eval.rouge import METRICS, mean_f1, score
from eval.training_rouge import TrainingRougeCallback, bound, decoding_of
from tests.conftest import ROOT, command, derived_recipe, train

DIALOGUES, TOKENS = 4, 16
ROUGE: dict[str, Any] = {"dialogues": DIALOGUES, "max_new_tokens": TOKENS, "examples": 2}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Recipe:
    folder = tmp_path_factory.mktemp("rouge")
    path = derived_recipe(
        "smollm2_samsum", folder, "rouge", summarization__training_rouge=ROUGE,
        summarization__decoding={"batch_tokens": 500, "dtype": "float32"},
    )  # fmt: skip
    prepare(load_recipe(path))
    return load_recipe(path)


def trainer_of(recipe: Recipe, folder: Path, with_rouge: bool = True, **settings: Any) -> Trainer:
    """A real trainer of an adapter with dropout on a few rows."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(
        recipe.config["base_model"], dtype=torch.float32, attn_implementation="sdpa"
    )
    base.config.use_cache = False
    adapter = LoraConfig(r=8, lora_dropout=0.2, target_modules="all-linear", task_type="CAUSAL_LM")
    encoder, rows = PromptEncoder(recipe), []
    for row in read_rows(recipe.data_dir / "train.jsonl")[:8]:
        ids, labels = encoder.training_ids(row)
        rows.append({"input_ids": ids, "labels": labels})
    arguments: dict[str, Any] = {}
    arguments |= {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "max_steps": 4}
    arguments |= {"eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1}
    arguments |= {"report_to": [], "use_cpu": True, "disable_tqdm": True, "learning_rate": 0.002}
    callback = TrainingRougeCallback(recipe)
    trainer = Trainer(
        get_peft_model(base, adapter),
        TrainingArguments(str(folder), **{"save_strategy": "no"} | arguments | settings),
        train_dataset=rows,
        eval_dataset=rows[:2],
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(base.name_or_path)),
        callbacks=[callback] if with_rouge else [],
    )
    callback.trainer = trainer
    return trainer


def figures_in(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [entry for entry in history if "eval_rougeL" in entry]


def random_numbers() -> list[float]:
    return [random.random(), float(np.random.rand()), torch.rand(1).item()]


def test_bound_is_dialogues_times_tokens(recipe: Recipe) -> None:
    assert bound(recipe) == DIALOGUES * TOKENS
    assert decoding_of(recipe).batch_tokens == 500


def test_more_dialogues_than_validation_has_are_refused(recipe: Recipe) -> None:
    block = recipe.summarization.training_rouge.model_copy(update={"dialogues": 21})
    wanted = recipe.summarization.model_copy(update={"training_rouge": block})
    with pytest.raises(UserError, match=r"dialogues is 21, but .*validation.jsonl has 20 rows"):
        TrainingRougeCallback(Recipe(recipe.path, recipe.config, wanted))


def test_a_length_below_the_least_is_refused(recipe: Recipe) -> None:
    least = recipe.summarization.decoding.model_copy(update={"min_new_tokens": 20})
    block = recipe.summarization.model_copy(update={"decoding": least})
    with pytest.raises(UserError, match=r"max_new_tokens is 16, below decoding.min_new_tokens, 20"):
        bound(Recipe(recipe.path, recipe.config, block))


@pytest.mark.parametrize("fails", [False, True])
def test_undisturbed_puts_everything_back(recipe: Recipe, tmp_path: Path, fails: bool) -> None:
    """After a real generation with sampling in a model with gradient checkpointing and dropout."""
    trainer = trainer_of(recipe, tmp_path)
    model: Any = trainer.model
    bare = without_peft(model)
    bare.gradient_checkpointing_enable()
    bare.enable_input_require_grads()
    model.train()
    model.get_submodule("base_model.model.model.layers.3").eval()  # a mixed state

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
        with undisturbed(model):
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


def test_figures_are_those_of_evaluation(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new adapter changes nothing, so that the base model of eval.run must give the same."""
    trainer = trainer_of(recipe, tmp_path)
    metrics = trainer.evaluate()
    rows = read_rows(recipe.data_dir / "validation.jsonl")[:DIALOGUES]
    decoding = recipe.summarization.decoding.model_copy(update={"max_new_tokens": TOKENS})
    summarizer = Summarizer(recipe, decoding, rows, None)
    assert len(summarizer.batches) > 1
    made = [result for n in range(len(summarizer.batches)) for result in summarizer.summarize(n)]
    by_id = {result["id"]: result for result in made}
    predictions = [by_id[row["id"]]["prediction"] for row in rows]
    expected = mean_f1(score(predictions, [row["messages"][1]["content"] for row in rows]))
    assert {metric: metrics[f"eval_{metric}"] for metric in METRICS} == expected
    assert expected["rougeL"] > 1
    assert metrics["eval_summary_tokens"] == sum(row["tokens"] for row in made) / DIALOGUES
    assert metrics["eval_stopped"] == sum(row["stopped"] for row in made) / DIALOGUES
    (logged,) = figures_in(trainer.state.log_history)
    assert {k: v for k, v in logged.items() if k in metrics}.items() <= metrics.items()
    assert "step 0: ROUGE" in (said := capsys.readouterr().out) and "% of training so far" in said


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True, "bf16": True}])
def test_training_is_the_same_with_and_without(
    recipe: Recipe, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """With dropout: the losses and the adapter, bit for bit; also in bf16 with checkpointing."""
    losses, adapters = [], []
    for with_rouge in (True, False):
        trainer = trainer_of(
            recipe, tmp_path / str(with_rouge), with_rouge, max_steps=3, **settings
        )
        trainer.train()
        history = trainer.state.log_history
        assert len(figures_in(history)) == (2 if with_rouge else 0)  # also at the end
        losses.append([(e.get("loss"), e.get("eval_loss"), e.get("grad_norm")) for e in history
                       if "eval_rougeL" not in e and "train_runtime" not in e])  # fmt: skip
        model: Any = trainer.model
        weights = model.state_dict().items()
        adapters.append({name: value for name, value in weights if "lora_" in name})
    assert losses[0] == losses[1] and len(losses[0]) == 5
    assert all(torch.equal(value, adapters[1][name]) for name, value in adapters[0].items())


@pytest.mark.slow
def test_early_stopping_reads_the_figures_and_tensorboard_shows_them(
    recipe: Recipe, tmp_path: Path
) -> None:
    """A huge learning rate ruins the model: nothing beats the first evaluation."""
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
    rows = read_rows(recipe.data_dir / "validation.jsonl")
    for event in texts:
        text = event.tensor_proto.string_val[0].decode()
        assert text.count("### ") == 2
        assert rows[0]["id"] in text and rows[1]["messages"][1]["content"] in text
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
    rows = read_rows(recipe.data_dir / "validation.jsonl")[:2]
    found = json.loads(table.read_text("utf-8"))
    assert found["columns"] == ["id", "reference", "prediction"]
    assert [line[:2] for line in found["data"]] == [
        [row["id"], row["messages"][1]["content"]] for row in rows
    ]


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
    row = read_rows(recipe.data_dir / "validation.jsonl")[0]
    assert f"### {row['id']}" in text and row["messages"][1]["content"] in text


TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
from data_prep.recipe import load_recipe
from eval.generate import Summarizer
from tests.test_training_rouge import trainer_of

made, plain = [], Summarizer.summarize
Summarizer.summarize = lambda self, number: made.append(number) or plain(self, number)
recipe, folder = load_recipe(sys.argv[1]), Path(sys.argv[2])
extra = {"ddp_backend": "gloo"} if "RANK" in os.environ else {}
trainer = trainer_of(recipe, folder, max_steps=1, eval_steps=1, learning_rate=0.0, **extra)
trainer.train()
figures = [entry for entry in trainer.state.log_history if "eval_rougeL" in entry]
found = {"figures": figures[0], "made": made, "in": type(trainer.model_wrapped).__name__}
(folder / (os.environ.get("RANK", "alone") + ".json")).write_text(json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_share_the_work_and_both_have_the_figures(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDP; at a learning rate of 0, so that the figures must be those of one process."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    (script := tmp_path / "two.py").write_text(TWO_PROCESSES, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for launcher in (["python"], ["torchrun", "--nproc-per-node", 2]):
        done = command(*launcher, script, recipe.path, tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    alone, first, second = (
        json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in ("alone", "0", "1")
    )
    assert first["in"] == "DistributedDataParallel"
    assert first["figures"] == second["figures"]
    assert alone["made"] == sorted(first["made"] + second["made"]) and second["made"]
    for name, value in alone["figures"].items():
        if name.startswith("eval_") and name != "eval_summary_seconds":
            assert first["figures"][name] == value


FSDP2 = """
import sys
import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM
from data_prep.recipe import Decoding
from eval.generation import Settings, generate
from eval.model_in_training import undisturbed, without_peft

torch.distributed.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
adapter = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
model, settings = get_peft_model(base, adapter), Settings(Decoding(max_new_tokens=12), 2, 2, "cpu")
prompts = [[1, 733, 16289, 28793], [1, 733]]
with undisturbed(model):
    whole = generate(base, prompts, settings)
for part in (*base.model.layers, model):  # as Accelerate does
    fully_shard(part, mesh=mesh, reshard_after_forward=True)
ids = torch.tensor([[1, 733, 16289]])
with torch.no_grad():
    model(input_ids=ids)  # the evaluation of the loss comes before
with undisturbed(model):
    assert generate(without_peft(model), prompts, settings) == whole
model.train()(input_ids=ids, labels=ids).loss.backward()
"""


@pytest.mark.slow
def test_generation_under_fsdp2(tiny_mistral: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """On two processes with sharded weights: the same ids, and training goes on after it."""
    (script := tmp_path / "fsdp2.py").write_text(FSDP2, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = command("torchrun", "--nproc-per-node", 2, script, tiny_mistral)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_losses_are_the_same_with_and_without(tmp_path: Path, tiny_smollm2: Path) -> None:
    """Through Axolotl's launch line, and the figures reach trainer_state.json."""
    histories = []
    for dialogues in (4, 0):
        folder = tmp_path / str(dialogues)
        folder.mkdir()
        path = derived_recipe(
            "smollm2_samsum", folder, "run", base_model=str(tiny_smollm2), bf16=False,
            max_steps=6, eval_strategy="steps",
            eval_steps=2, save_steps=2, logging_steps=1,
            summarization__training_rouge={"dialogues": dialogues, "max_new_tokens": 8},
        )  # fmt: skip
        prepare(load_recipe(path))
        train(path)
        state = json.loads((folder / "output/trainer_state.json").read_text("utf-8"))
        histories.append(state["log_history"])
    with_rouge, without = histories
    assert [entry["step"] for entry in figures_in(with_rouge)] == [2, 4, 6]
    assert not figures_in(without)
    for name in ("loss", "eval_loss"):
        first, second = ([e[name] for e in history if name in e] for history in histories)
        assert first == second and len(first) == (6 if name == "loss" else 3)
