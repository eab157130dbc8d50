"""The files that data_prep, training and eval.run write, made without training a tiny model."""

import json
import shutil
from pathlib import Path

import yaml

from data_prep.prepare import check_prepared, prepare
from data_prep.prompt import Example, read_examples
from data_prep.recipe import Recipe, load_recipe
from data_prep.sources import sha256_of
from eval.adapter import settings_of
from eval.generate import Prediction
from eval.predictions import FileRecord, key_file
from eval.results import write_results
from eval.signature import generation_key
from tests.conftest import ROOT
from training import run_record

NAME = "tiny_run"
BASE = "user/tiny-smollm2"  # ends with the name of the model's folder


def make_run(folder: Path, model: Path) -> Path:
    """Prepare, "train" and score in the working directory `folder`; return the recipe's path."""
    recipe = _recipe(folder, model)
    prepare(recipe)
    files = check_prepared(recipe).files
    _adapter(recipe, model, files)
    write_scores(recipe, files)
    return recipe.path


def _recipe(folder: Path, model: Path) -> Recipe:
    config = yaml.safe_load((ROOT / "recipes/smollm2_samsum.yml").read_text("utf-8"))
    config["datasets"][0]["path"] = f"data/{NAME}/train.jsonl"
    config["test_datasets"][0]["path"] = f"data/{NAME}/validation.jsonl"
    config["output_dir"] = f"outputs/{NAME}"
    config["base_model"] = str(model)
    config["summarization"]["publish"] |= {"base_model": BASE, "base_license": "apache-2.0"}
    config["summarization"]["source"] = str(ROOT / "data_prep/sample")
    path = folder / f"{NAME}.yml"
    path.write_text("# A recipe of a test.\n" + yaml.safe_dump(config), "utf-8")
    return load_recipe(path.name)


def _adapter(recipe: Recipe, model: Path, files: dict[str, str]) -> None:
    """Write what training writes: adapter, tokenizer, records, a checkpoint, Axolotl's own card."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = recipe.output_dir
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora)
    tuned.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    (folder / "README.md").write_text(f"datasets: {folder.resolve()}/train.jsonl\n", "utf-8")
    (folder / "optimizer.pt").write_bytes(b"not for the Hub")
    shutil.copytree(folder, folder / "checkpoint-40")
    history = [{"step": 20, "loss": 1.9}, {"step": 40, "eval_loss": 1.625}]
    history.append({"step": 40, "train_runtime": 83.5, "train_loss": 1.75})
    state = {"global_step": 40, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(state), "utf-8")
    settings = settings_of(recipe.config, files, 1)
    run_record.write_run(folder, settings, {"bf16": True, "fp16": False}, "")
    run_record.write_trained_with(folder, recipe, 40)


def write_scores(recipe: Recipe, files: dict[str, str]) -> None:
    """Score invented outputs: of the base model, the dialogue; of the tuned one, the reference."""
    folder = Path("results") / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_examples(recipe.data_dir / "test.jsonl")
    data = f"{files['test.jsonl']}[:{len(rows)}]"
    records = {}
    for name, adapter in (("base", None), ("tuned", recipe.output_dir)):
        key = generation_key(recipe, name, recipe.summarization.decoding, data, adapter)
        text = "".join(_output(row, name).model_dump_json() + "\n" for row in rows)
        path = folder / f"predictions.{name}.jsonl"
        path.write_text(text, "utf-8")
        records[name] = FileRecord(key=key, sha256=sha256_of(path), seconds=12.5)
        key_file(path).write_text(records[name].model_dump_json(), "utf-8")
    write_results(recipe, "test", folder, records, [])


def _output(row: Example, name: str) -> Prediction:
    words = (row.dialogue if name == "base" else row.summary).split()
    return Prediction(
        id=row.id,
        dialogue=row.dialogue,
        reference=row.summary,
        prediction=" ".join(words[:30] if name == "base" else words[1:]),
        tokens=30,
        stopped=name == "tuned",
    )
