"""Records of a run: which training may continue in a folder, and the cache of tokenised rows."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from data_prep.recipe import Recipe, load_recipe
from eval.adapter import ADAPTER, TRAINED_WITH, finished, read_record, settings_of
from eval.trackers import TRACKED, TrainingRuns
from tests.conftest import ROOT, derived_recipe
from training import run_record
from training.run_record import cache_folder, set_aside_cut_caches

FILES = {"train.jsonl": "aaaa", "validation.jsonl": "bbbb", "test.jsonl": "cccc"}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(derived_recipe("smollm2_samsum", tmp_path, "record"))


def settings(recipe: Recipe, processes: int = 1, **changes: Any) -> dict[str, Any]:
    files = {**FILES, **changes.pop("files", {})}
    return settings_of({**recipe.config, **changes}, files, processes)


def changed(recipe: Recipe, **changes: Any) -> str:
    """Return the refusal of a run that continues with `changes`, or an empty text if it may."""
    run_record.write_run(recipe.output_dir, settings(recipe), {}, "")
    try:
        run_record.check_same_run(recipe.output_dir, settings(recipe, **changes))
    except UserError as error:
        return str(error)
    return ""


def test_a_new_folder_and_the_same_settings_are_accepted(recipe: Recipe) -> None:
    run_record.check_same_run(recipe.output_dir, settings(recipe))
    assert changed(recipe) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora_r": 32}, "lora_r was 16 and is 32;"),
        ({"warmup_ratio": None}, "warmup_ratio was 0.05 and is null;"),
        ({"processes": 2}, "processes was 1 and is 2;"),
        ({"files": {"train.jsonl": "dddd"}}, 'data.train.jsonl was "aaaa" and is "dddd";'),
        ({"summarization__instruction": "Sum up: {dialogue}"}, "summarization.instruction was "),
        ({"datasets__type": "alpaca"}, 'datasets[0].type was "chat_template" and is "alpaca";'),
    ],
)
def test_settings_that_shape_the_weights_are_compared(
    recipe: Recipe, changes: dict[str, Any], said: str
) -> None:
    ((key, value),) = changes.items()
    block, _, inner = key.partition("__")
    if block == "summarization":
        changes = {block: {**recipe.config[block], inner: value}}
    elif block == "datasets":
        changes = {block: [{**recipe.config[block][0], inner: value}]}
    text = changed(recipe, **changes)
    assert f"{recipe.output_dir}: was trained differently: {said}" in text
    assert text.count(" was ") == 2 and "--auto_resume_from_checkpoints false" in text


def test_settings_for_logging_and_evaluation_may_change(recipe: Recipe) -> None:
    block = {**recipe.config["summarization"], "decoding": {"num_beams": 4}}
    assert not changed(
        recipe, logging_steps=1, use_tensorboard=True, wandb_project="x", output_dir="elsewhere",
        resume_from_checkpoint="x", summarization=block, files={"test.jsonl": "other"},
    )  # fmt: skip


def test_decoding_is_compared_if_summaries_choose_the_checkpoint(recipe: Recipe) -> None:
    block = {**recipe.config["summarization"], "training_rouge": {"dialogues": 4}}
    recipe.config["summarization"] = block
    other = {**block, "decoding": {**block["decoding"], "max_new_tokens": 7}}
    said = changed(recipe, summarization=other)
    assert "summarization.decoding.max_new_tokens was 128 and is 7;" in said


def test_a_run_with_unknown_settings_is_refused(recipe: Recipe) -> None:
    (recipe.output_dir / "checkpoint-10").mkdir(parents=True)
    with pytest.raises(UserError, match="but no run.json with its settings"):
        run_record.check_same_run(recipe.output_dir, settings(recipe))
    (recipe.output_dir / "run.json").write_text('{"settings": ', "utf-8")
    with pytest.raises(UserError, match="train again with"):
        run_record.check_same_run(recipe.output_dir, settings(recipe))


def test_a_run_is_finished_only_with_the_saved_adapter(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / ADAPTER).write_bytes(b"weights")
    assert finished(tmp_path) is None
    run_record.write_trained_with(tmp_path, recipe, 40)
    assert finished(tmp_path) == 40
    made = json.loads((tmp_path / TRAINED_WITH).read_text("utf-8"))
    assert made["instruction"] == recipe.summarization.instruction
    assert re.fullmatch("[0-9a-f]{64}", made["template"])
    assert made["machine"].endswith(" cores") and 0.05 < made["peak_memory_gb"] < 100
    (tmp_path / ADAPTER).write_bytes(b"weigh")
    assert finished(tmp_path) is None


def test_the_runs_of_trackers_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)  # left by an earlier test
    run_record.write_training_runs(tmp_path)
    assert not (tmp_path / TRACKED).exists()
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    with wandb.init(mode="offline", settings=wandb.Settings(silent=True)) as run:
        run_record.write_training_runs(tmp_path)
        assert read_record(tmp_path / TRACKED, TrainingRuns) == TrainingRuns(wandb=run.id)
    wandb.teardown()


def test_the_run_of_mlflow_is_recorded_once_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with mlflow.start_run() as run:
        pass
    run_record.write_training_runs(tmp_path)
    assert read_record(tmp_path / TRACKED, TrainingRuns) == TrainingRuns(mlflow=run.info.run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # no server there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / TRACKED).unlink()
    run_record.write_training_runs(tmp_path)
    assert not (tmp_path / TRACKED).exists()


def test_a_new_start_keeps_every_file_of_the_old_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for start in (1, 2):
        run_record.write_run(folder, {"start": start}, {}, "")
        (folder / "debug.log").write_text("open", "utf-8")
        aside = run_record.set_aside(folder)
        assert [path.name for path in folder.iterdir()] == ["debug.log"]
        assert json.loads((aside / "run.json").read_text("utf-8"))["settings"] == {"start": start}
    assert {path.name for path in tmp_path.iterdir()} == {
        "run", "run-set-aside", "run-set-aside.2",
    }  # fmt: skip


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    held = run_record.lock(tmp_path / "run")
    with pytest.raises(UserError, match="another training or merge is running there"):
        run_record.lock(tmp_path / "run")
    held.release()
    run_record.lock(tmp_path / "run").release()


def test_the_cache_depends_on_rows_recipe_and_tokenizer(recipe: Recipe, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}", "utf-8")
    recipe.config["tokenizer_config"] = str(tokenizer)
    first = cache_folder(recipe, FILES)
    assert first == cache_folder(recipe, {**FILES, "test.jsonl": "other"})
    found = {first, cache_folder(recipe, {**FILES, "validation.jsonl": "other"})}
    for key, value in (("sequence_len", 512), ("special_tokens", {"pad_token": "<unk>"})):
        found.add(cache_folder(Recipe(recipe.path, {**recipe.config, key: value},
                                      recipe.summarization), FILES))  # fmt: skip
    (tokenizer / "tokenizer.json").write_text('{"other": 1}', "utf-8")
    found.add(cache_folder(recipe, FILES))
    assert len(found) == 5
    unshaped = {**recipe.config, "learning_rate": 0.5, "output_dir": "elsewhere"}
    assert cache_folder(Recipe(recipe.path, unshaped, recipe.summarization), FILES) in found
    mine = {**recipe.config, "dataset_prepared_path": str(tmp_path / "mine")}
    placed = cache_folder(Recipe(recipe.path, mine, recipe.summarization), FILES)
    assert placed.parent == tmp_path / "mine"


def test_an_incomplete_cache_is_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, files in (("whole", ("state.json", "dataset_info.json")), ("cut", ())):
        (tmp_path / name).mkdir()
        for file in ("data-00000-of-00001.arrow", *files):
            (tmp_path / name / file).write_bytes(b"x")
    for _ in range(2):  # a renamed one stays
        set_aside_cut_caches(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "set-aside-cut"}
    assert capsys.readouterr().err.count("cut short") == 1


def test_no_recipe_of_ours_records_a_path(recipe: Recipe) -> None:
    for path in (ROOT / "recipes").glob("*.yml"):
        found = settings(load_recipe(path))
        assert found and not any(key.startswith(("output_dir", "axolotl")) for key in found)


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("/", "is the folder in which this command runs, one above it"),
        ("..", "one above it"),
        (".", "one above it"),
        ("~", "or your home"),
        ("file.txt", "is a file"),
        ("file.txt/out", "file.txt is not a writable folder"),
        ("out/checkpoint-3", "is named like a checkpoint"),
        ("above", "is or holds the adapter's folder above/adapter"),
        ("model", "is or holds the base model's folder"),
        ("model/output", "is in the base model's folder"),
        ("data", "is or holds the prepared data's folder"),
        ("corpus/out", "is in the source's folder"),
        ("photos", "holds files that are not from training (one.jpg, two.jpg)"),
    ],
)
def test_folders_that_a_training_must_not_write_to(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model", "corpus", "photos", "above/adapter"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("model/config.json", "file.txt", "photos/one.jpg", "photos/two.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "data").mkdir(exist_ok=True)
    changes = {
        "base_model": "model",
        "lora_model_dir": "above/adapter",
        "output_dir": str(Path.home()) if where == "~" else where,
    }
    block = {**recipe.config["summarization"], "source": "corpus"}
    config = {**recipe.config, **changes, "summarization": block}
    (problem,) = run_record.output_dir_problems(recipe.path, config)
    assert why in problem and problem.endswith("; choose a separate folder")
    assert run_record.output_dir_problems(recipe.path, {**config, "output_dir": "out"}) == []


def test_a_folder_left_by_a_training_or_a_sweep_may_be_used(recipe: Recipe, tmp_path: Path) -> None:
    config = {**recipe.config, "output_dir": str(tmp_path / "out")}
    (tmp_path / "out").mkdir()
    assert run_record.output_dir_problems(recipe.path, config) == []
    for name in (".lock", "debug.log"):  # from a training that was refused after its start
        (tmp_path / "out" / name).touch()
    (tmp_path / "out/sweep0001").mkdir()
    (tmp_path / "out/runs/record-eval-test").mkdir(parents=True)  # the base model was evaluated
    assert run_record.output_dir_problems(recipe.path, config) == []
    (tmp_path / "out/notes.txt").touch()
    assert "(notes.txt)" in run_record.output_dir_problems(recipe.path, config)[0]
    (tmp_path / "out/run.json").touch()  # notes beside a run are allowed
    assert run_record.output_dir_problems(recipe.path, config) == []


def test_the_recipe_is_kept_with_the_settings_of_the_run(recipe: Recipe) -> None:
    folder, asked = recipe.output_dir, {**recipe.config, "axolotl_config_path": recipe.path}
    run_record.write_run(folder, {}, {}, run_record.recipe_text(recipe.path, asked))
    assert (folder / "recipe.yml").read_text("utf-8") == recipe.path.read_text("utf-8")
    asked |= {"learning_rate": 0.0005, "auto_resume_from_checkpoints": False}  # only for this start
    run_record.write_run(folder, {}, {}, run_record.recipe_text(recipe.path, asked))
    kept = load_recipe(folder / "recipe.yml")
    assert kept.config == {**recipe.config, "learning_rate": 0.0005}
    assert (folder / "recipe.yml").read_text("utf-8").startswith("# record.yml as it was trained")
