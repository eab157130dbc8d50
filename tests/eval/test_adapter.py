"""An adapter is evaluated only with a recipe that matches its training."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.errors import UserError
from data_prep.recipe import Recipe, load_recipe
from eval.adapter import ADAPTER, find_adapter, same_weights, trained_otherwise
from eval.run import default_output, evaluate
from eval.scores import EvaluatedAdapter, Scores
from tests.conftest import ROOT

RUN = "tiny_run.yml"


def changed(name: str, **changes: Any) -> Recipe:
    """Return a copy of the run's recipe with other values and the same folders."""
    config = yaml.safe_load(Path(RUN).read_text("utf-8"))
    for key, value in changes.items():
        block, _, inner = key.partition("__")
        if inner:
            config[block][inner] = value
        else:
            config[key] = value
    Path(f"{name}.yml").write_text(yaml.safe_dump(config), "utf-8")
    return load_recipe(f"{name}.yml")


def peft_files_only(run: Path) -> Path:
    """Copy only PEFT's two files, which is how other people share an adapter."""
    folder = run / "theirs"
    folder.mkdir()
    for name in ("adapter_config.json", ADAPTER):
        shutil.copy(run / "outputs/tiny_run" / name, folder)
    return folder


def test_a_copied_recipe_with_another_rank_does_not_use_the_old_adapter(run: Path) -> None:
    copy = changed("copy", lora_r=64, learning_rate=0.0003)
    before = (run / "results/tiny_run/scores.json").read_bytes()
    with pytest.raises(UserError) as refused:
        evaluate(copy, ["tuned"], "test", None, None)
    words = str(refused.value)
    assert "lora_r was 16 and is 64" in words and "learning_rate was 0.001 and is 0.0003" in words
    assert "--adapter outputs/tiny_run`" in words
    assert not (run / "results/copy").exists()
    assert (run / "results/tiny_run/scores.json").read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"summarization__decoding": {"num_beams": 4}},
        {"summarization__metrics": ["rouge"]},
        {"logging_steps": 1},
        {"save_steps": 500, "eval_strategy": "no"},
        {"use_mlflow": True, "mlflow_experiment_name": "chats", "hf_mlflow_log_artifacts": True},
    ],
)
def test_settings_without_effect_on_weights_may_change_after_training(
    run: Path, changes: dict[str, Any]
) -> None:
    assert find_adapter(changed("copy", **changes)) == Path("outputs/tiny_run")


def test_save_steps_must_match_if_the_best_checkpoint_was_kept(run: Path) -> None:
    path = run / "outputs/tiny_run/run.json"
    record = json.loads(path.read_text("utf-8"))
    record["settings"]["load_best_model_at_end"] = True
    path.write_text(json.dumps(record), "utf-8")
    recipe = changed("copy", load_best_model_at_end=True, save_steps=20, eval_steps=20,
                     eval_strategy=None)  # fmt: skip
    with pytest.raises(UserError, match="save_steps was 250 and is 20"):
        find_adapter(recipe)


def test_the_same_rows_in_another_folder_are_the_same_training(run: Path) -> None:
    moved = shutil.copytree("data/tiny_run", "data/moved")
    sets: dict[str, Any] = yaml.safe_load(Path(RUN).read_text("utf-8"))
    for key, name in (("datasets", "train"), ("test_datasets", "validation")):
        sets[key][0]["path"] = f"{moved}/{name}.jsonl"
    recipe = changed("copy", summarization__source="elsewhere", datasets=sets["datasets"],
                     test_datasets=sets["test_datasets"])  # fmt: skip
    assert trained_otherwise(recipe, recipe.output_dir) == {}
    manifest = Path(moved) / "manifest.json"
    record = json.loads(manifest.read_text("utf-8"))
    record["files"]["train.jsonl"] = "0" * 64
    manifest.write_text(json.dumps(record), "utf-8")
    found = trained_otherwise(recipe, recipe.output_dir) or {}
    assert {"data.train.jsonl", "summarization.source"} <= found.keys()


def test_a_replaced_adapter_file_is_refused(run: Path) -> None:
    weights = run / "outputs/tiny_run/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(UserError, match="is not the file that training saved at its end"):
        find_adapter(load_recipe(RUN))


def test_a_given_adapter_may_have_other_settings_but_not_another_prompt(run: Path) -> None:
    given = Path("outputs/tiny_run")
    copy = changed("copy", lora_r=64)
    assert find_adapter(copy, given) == given
    assert trained_otherwise(copy, given) == {"lora_r": "lora_r was 16 and is 64"}
    other = changed("other", special_tokens={"eos_token": "<|im_end|>"})
    with pytest.raises(UserError, match="different prompt: special_tokens.eos_token was null"):
        find_adapter(other, given)
    prompt = changed("prompt", summarization__instruction="Sum up: {dialogue}")
    with pytest.raises(UserError, match="different prompt: summarization.instruction was"):
        find_adapter(prompt, given)


def test_results_of_another_adapter_are_not_overwritten(run: Path) -> None:
    """Uses two adapter folders with the same name, as sweeps create them."""
    for parent in ("a", "b"):
        shutil.copytree("outputs/tiny_run", f"{parent}/final")
    copy = changed("copy", lora_r=64)
    folder = Path("results/copy/adapter-final")
    folder.mkdir(parents=True)
    scores = Scores.read(ROOT / "results/smollm2_samsum_corpus/scores.json")
    scores.recipe = "copy"
    scores.adapter = EvaluatedAdapter(folder="a/final", trained_otherwise=[], signature="")
    before = scores.model_dump_json()
    (folder / "scores.json").write_text(before, "utf-8")
    with pytest.raises(UserError, match="holds the results of adapter a/final; choose another"):
        evaluate(copy, ["tuned"], "test", None, None, Path("b/final"))
    assert (folder / "scores.json").read_text("utf-8") == before


def test_the_chat_template_of_a_data_set_is_part_of_the_prompt(run: Path) -> None:
    sets = yaml.safe_load(Path(RUN).read_text("utf-8"))["datasets"]
    sets[0]["chat_template"] = "chatml"
    with pytest.raises(UserError, match=r"different prompt: datasets\[0\].chat_template was null"):
        find_adapter(changed("copy", datasets=sets), Path("outputs/tiny_run"))


def test_a_checkpoint_is_compared_with_its_own_run(run: Path) -> None:
    given = Path("outputs/tiny_run/checkpoint-40")
    copy = changed("copy", lora_r=64)
    assert trained_otherwise(copy, given) == {"lora_r": "lora_r was 16 and is 64"}
    assert default_output(copy, "test", None, given) == Path(
        "results/copy/adapter-tiny_run-checkpoint-40"
    )


def test_an_adapter_from_someone_else(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only its shapes can be checked, since its base model is a path that does not exist here."""
    folder, recipe = peft_files_only(run), load_recipe(RUN)
    assert trained_otherwise(recipe, folder) is None
    config = folder / "adapter_config.json"
    text = config.read_text("utf-8").replace(recipe.config["base_model"], "/home/bob/smollm2")
    config.write_text(text, "utf-8")
    assert find_adapter(recipe, folder) == folder
    assert "was trained on /home/bob/smollm2, which is not available" in capsys.readouterr().out
    shutil.copytree(folder, recipe.output_dir, dirs_exist_ok=True)
    (recipe.output_dir / "trained_with.json").unlink()
    with pytest.raises(UserError, match="trained on /home/bob/smollm2, but the recipe's"):
        find_adapter(recipe)  # the recipe's own adapter must name the recipe's base model


def test_the_same_weights_under_another_path(run: Path, tiny_smollm2: Path) -> None:
    other = shutil.copytree(tiny_smollm2, run / "elsewhere")
    assert same_weights(str(tiny_smollm2), str(other)) is True
    weights = other / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert same_weights(str(tiny_smollm2), str(other)) is False
    assert same_weights("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-360M") is False
    assert same_weights("models/smollm2-135m", "HuggingFaceTB/SmolLM2-135M") is None
    for folder in (run / "a", run / "b"):
        folder.mkdir()
    assert same_weights(str(run / "a"), str(run / "b")) is None  # neither has weights
    assert same_weights("/home/bob/smollm2", str(tiny_smollm2)) is None


def test_a_missing_or_unused_adapter_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match="--adapter nowhere: has no adapter_model.safetensors"):
        find_adapter(load_recipe(RUN), Path("nowhere"))
    with pytest.raises(UserError, match="--adapter: has no effect without the tuned model"):
        evaluate(load_recipe(RUN), ["base"], "test", None, None, Path("outputs/tiny_run"))


@pytest.mark.slow
def test_a_given_adapter_is_evaluated_and_recorded(run: Path) -> None:
    """The scores and both reports say which adapter it was and how its training differed."""
    copy = changed("copy", lora_r=64, summarization__decoding={"max_new_tokens": 4})
    shutil.copy(RUN, "outputs/tiny_run/recipe.yml")
    evaluate(copy, ["base", "tuned"], "test", 2, None, Path("outputs/tiny_run"))
    folder = run / "results/copy/adapter-tiny_run/test-first-2"
    scores = json.loads((folder / "scores.json").read_text("utf-8"))
    assert scores["adapter"]["folder"] == "outputs/tiny_run"
    assert scores["systems"]["tuned"]["signature"].endswith("|trained:lora_r")
    assert "trained:" not in scores["systems"]["base"]["signature"]
    sentence = "was trained with other settings than recipe copy: lora_r was 16 and is 64."
    assert sentence in (folder / "report.md").read_text("utf-8")
    page = (folder / "report.html").read_text("utf-8")
    assert sentence in page and "# A recipe of a test." in page


def test_a_recipe_kept_with_an_adapter_is_named_after_its_folder(run: Path) -> None:
    kept = run / "outputs/tiny_run/recipe.yml"
    shutil.copy(RUN, kept)
    assert load_recipe(kept).name == "tiny_run"
    assert find_adapter(load_recipe(kept)) == Path("outputs/tiny_run")
    plain = Path(shutil.copy(RUN, "recipe.yml"))
    assert load_recipe(plain).name == "recipe"
