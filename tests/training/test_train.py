"""A complete run: the launch line trains with Axolotl, and the tuned model is evaluated."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_prep.prepare import prepare
from data_prep.prompt import PromptEncoder, read_examples
from data_prep.recipe import Recipe, load_recipe
from data_prep.settings import Decoding
from eval.generate import Summarizer
from eval.hf_engine import HfEngine
from eval.results import training_curves
from tests.conftest import ROOT, command, derived_recipe, run_module, train

pytestmark = pytest.mark.slow
DIALOGUES = 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Recipe:
    """smollm2_samsum.yml in its own folders, prepared and trained for half an epoch."""
    folder = tmp_path_factory.mktemp("trained")
    source = Path(shutil.copytree(ROOT / "data_prep/sample", folder / "sample"))
    rows = (source / "validation.jsonl").read_text("utf-8").splitlines(keepends=True)
    (source / "validation.jsonl").write_text("".join(rows[:4]), "utf-8")  # 20 rows take too long
    path = derived_recipe("smollm2_samsum", folder, "trained", num_epochs=0.5,
                          summarization__source=str(source))  # fmt: skip
    recipe = load_recipe(path)
    prepare(recipe)
    done = train(path)
    assert re.search(r"trained 20 steps, .* loss \d.* peak \d", done.stdout)
    return recipe


@pytest.fixture(scope="module")
def results(trained: Recipe) -> Path:
    """Both models on a few test dialogues, through the command line."""
    folder = trained.output_dir.parent / "results"
    line = ("python", "-m", "eval.run", trained.path, "--output", folder, "--limit", DIALOGUES)
    done = command(*line)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def _evaluate(recipe: Recipe, folder: Path, *flags: object) -> subprocess.CompletedProcess[str]:
    return run_module("eval.run", recipe.path, "--output", folder, "--limit", DIALOGUES, *flags)


def test_training_saves_an_adapter_and_the_loss_falls(trained: Recipe) -> None:
    assert (trained.output_dir / "adapter_model.safetensors").is_file()
    states = sorted(trained.output_dir.glob("checkpoint-*/trainer_state.json"))
    history = json.loads(states[-1].read_text("utf-8"))["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0]
    curves = training_curves(trained.output_dir)
    assert curves["eval_loss"] and len(curves["loss"]) == len(losses)


@pytest.mark.parametrize("merged", [True, False])
def test_evaluation_computes_the_loss_that_training_logged(trained: Recipe, merged: bool) -> None:
    """On the validation rows after the last step; the trainer averages over batches."""
    engine = Summarizer(trained, Decoding(dtype="float32")).engine
    assert isinstance(engine, HfEngine)
    model = engine.attach_beside(trained.output_dir)
    if merged:
        model = model.merge_and_unload()
    encoder, size = PromptEncoder(trained), trained.config["micro_batch_size"]
    rows = [encoder.training_ids(e) for e in read_examples(trained.data_dir / "validation.jsonl")]
    total = 0.0
    for start in range(0, len(rows), size):
        loss = tokens = 0.0
        for ids, labels in rows[start : start + size]:
            learnt = sum(label != -100 for label in labels)
            with torch.no_grad():
                of_row = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
            loss, tokens = loss + learnt * of_row.item(), tokens + learnt
        total += len(rows[start : start + size]) * loss / tokens
    step, logged = training_curves(trained.output_dir)["eval_loss"][-1]
    assert step == 20
    assert total / len(rows) == pytest.approx(logged, rel=0.01)


def test_tuned_model_ends_its_summaries_and_beats_the_base_model(results: Path) -> None:
    systems = json.loads((results / "scores.json").read_text("utf-8"))["systems"]
    base, tuned = systems["base"], systems["tuned"]
    assert tuned["stopped"] == 1.0 and tuned["mistakes"]["token_limit"] == 0
    assert tuned["mean_tokens"] < base["mean_tokens"]
    assert tuned["scores"]["rougeL"]["f1"] > base["scores"]["rougeL"]["f1"]
    assert "adapter:none" in base["signature"] and "adapter:none" not in tuned["signature"]
    assert (results / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")


def test_predictions_are_in_test_order_with_their_dialogues(results: Path, trained: Recipe) -> None:
    rows = read_examples(trained.data_dir / "test.jsonl")[:DIALOGUES]
    for name in ("base", "tuned"):
        lines = (results / f"predictions.{name}.jsonl").read_text("utf-8").splitlines()
        made = [json.loads(line) for line in lines]
        assert [p["id"] for p in made] == [row.id for row in rows]
        assert [p["reference"] for p in made] == [row.summary for row in rows]
        assert all(p["prediction"] and 0 < p["tokens"] <= 128 for p in made)
    report = (results / "report.md").read_text("utf-8")
    assert "| tuned - base |" in report and report.count("### ") == DIALOGUES


def test_second_evaluation_reuses_the_predictions(results: Path, trained: Recipe) -> None:
    before = (results / "scores.json").read_bytes()
    for flags, made in (((), 2), (("--models", "tuned"), 1)):  # the base model stays in the report
        done = _evaluate(trained, results, *flags)
        assert done.returncode == 0 and done.stdout.count("already generated") == made
        assert (results / "scores.json").read_bytes() == before


def test_recorded_scores_contain_no_corpus_text(results: Path, trained: Recipe) -> None:
    scores = (results / "scores.json").read_text("utf-8")
    rows = read_examples(trained.data_dir / "test.jsonl")
    assert not any(row.summary in scores for row in rows)


def test_an_adapter_with_unused_weights_is_refused(trained: Recipe) -> None:
    """PEFT only warns, and the "tuned" model would be the base model."""
    copy = trained.output_dir.parent / "renamed"
    copy.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(trained.output_dir / name, copy)
    weights = copy / "adapter_model.safetensors"
    before = weights.read_bytes()
    renamed = {k.replace(".layers.", ".blocks."): v for k, v in load_file(weights).items()}
    save_file(renamed, weights)
    call = (trained, trained.output_dir.parent / "other", "--models", "tuned", "--adapter", copy)
    moved = _evaluate(*call)
    weights.write_bytes(before[: len(before) // 2])
    for done in (moved, _evaluate(*call)):
        assert done.returncode == 2
        assert "does not fit" in done.stderr.splitlines()[-1]
