"""A recipe that generates summaries for ROUGE in training, and a real trainer for it."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

from data_prep.prepare import prepare
from data_prep.prompt import PromptEncoder, read_examples
from data_prep.recipe import Recipe, load_recipe
from tests.conftest import derived_recipe
from training.rouge import TrainingRougeCallback

DIALOGUES, TOKENS = 4, 16
ROUGE: dict[str, Any] = {"dialogues": DIALOGUES, "max_new_tokens": TOKENS, "examples": 2}


def rouge_recipe(folder: Path, model: Path) -> Recipe:
    """Write a recipe for this model and prepare its data."""
    path = derived_recipe(
        "smollm2_samsum", folder, "rouge", base_model=str(model),
        summarization__training_rouge=ROUGE,
        summarization__decoding={"batch_tokens": 500, "dtype": "float32"},
    )  # fmt: skip
    prepare(load_recipe(path))
    return load_recipe(path)


def trainer_of(recipe: Recipe, folder: Path, with_rouge: bool = True, **settings: Any) -> Trainer:
    """Return a real trainer of an adapter with dropout, on a few rows."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(
        recipe.config["base_model"], dtype=torch.float32, attn_implementation="sdpa"
    )
    base.config.use_cache = False
    adapter = LoraConfig(r=8, lora_dropout=0.2, target_modules="all-linear", task_type="CAUSAL_LM")
    encoder, rows = PromptEncoder(recipe), []
    for row in read_examples(recipe.data_dir / "train.jsonl")[:8]:
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
