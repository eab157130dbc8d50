"""A recipe of the random tiny model, with an adapter of random weights."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from data_prep.recipe import Recipe, load_recipe
from tests.conftest import derived_recipe


def tiny_recipe(folder: Path, model_folder: Path) -> Recipe:
    """Write the adapter into `folder`; its prompts and summaries share 160 tokens."""
    decoding = {"max_new_tokens": 8, "dtype": "float32", "batch_tokens": 400}
    path = derived_recipe(
        "smollm2_samsum", folder, "tiny", base_model=str(model_folder), sequence_len=160,
        summarization__decoding=decoding,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(str(folder / "output"))
    return load_recipe(path)
