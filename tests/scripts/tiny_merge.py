"""A prepared recipe on a tiny model with a random adapter, and the command that merges it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.errors import run_cli
from data_prep.prepare import prepare
from data_prep.recipe import Recipe, load_recipe
from data_prep.sources import sha256_of
from scripts.merge import main
from tests.conftest import derived_recipe


def save_adapter(model: Path, recipe: Recipe, **settings: Any) -> None:
    """A PEFT adapter with random weights, as if Axolotl had trained it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)
    tuned: Any = get_peft_model(base, config)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    tuned.save_pretrained(recipe.output_dir)
    adapter = recipe.output_dir / "adapter_config.json"
    saved = json.loads(adapter.read_text("utf-8"))
    saved["base_model_name_or_path"] = recipe.config["base_model"]
    adapter.write_text(json.dumps(saved), "utf-8")


def tiny_recipe(folder: Path, model: Path, of: str = "smollm2_samsum", **more: Any) -> Recipe:
    """A prepared recipe on a tiny model, with an adapter."""
    path = derived_recipe(
        of, folder, "tiny", base_model=str(model), summarization__source="data_prep/sample",
        summarization__decoding={"max_new_tokens": 8, "dtype": "float32"}, **more,
    )  # fmt: skip
    recipe = load_recipe(path)
    prepare(recipe)
    save_adapter(model, recipe, target_modules=["q_proj", "o_proj", "down_proj"])
    return recipe


def run(capsys: pytest.CaptureFixture[str], recipe: Path, *flags: str) -> tuple[int, str, str]:
    """The command in this process: exit code, what it printed, and its last line of errors."""
    before, sys.argv = sys.argv, ["scripts.merge", str(recipe), *flags]
    try:
        run_cli(main)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    printed = capsys.readouterr()
    return code, printed.out, (printed.err.splitlines() or [""])[-1]


def proof_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "merge_proof.json").read_text("utf-8"))


def files(folder: Path) -> dict[str, str]:
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): sha256_of(p) for p in found}
