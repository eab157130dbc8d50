"""The proof of a merge's weights, on Axolotl's own merges of each kind and on damaged ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_prep.recipe import Recipe
from data_prep.settings import Summarization
from scripts.merge_proof import check_weights

DOWN = "model.layers.1.mlp.down_proj.weight"
NORM = "model.norm.weight"
STEPS, CHANGED, OTHER, NAMES = range(4)  # the checks, in order
Weights = dict[str, torch.Tensor]


def merge(
    folder: Path,
    model: Path,
    dtype: torch.dtype = torch.float32,
    adapter_dtype: torch.dtype = torch.float32,
    size: float = 0.05,
    nf4: bool = False,
    **lora: Any,
) -> tuple[Recipe, Path, Path]:
    """Merge a random adapter with Axolotl's function; return recipe, adapter and merged folder."""
    from axolotl.cli.utils.lora_merge import merge_lora_sharded_efficient
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base, adapter, merged = folder / "base", folder / "adapter", folder / "merged"
    AutoModelForCausalLM.from_pretrained(model, dtype=dtype).save_pretrained(base)
    torch.manual_seed(1)
    lora = {"target_modules": ["q_proj", "down_proj"], "r": 16, "lora_alpha": 32, **lora}
    config = LoraConfig(task_type="CAUSAL_LM", **lora)
    tuned: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:  # zero before training
            torch.nn.init.normal_(weight, std=size)
        if "lora_magnitude" in name:
            weight.data *= 1 + 0.01 * torch.randn_like(weight)
        if "lora_" in name:
            weight.data = weight.data.to(adapter_dtype)
    tuned.save_pretrained(folder / "adapter")
    merge_lora_sharded_efficient(base, adapter, merged, simulate_nf4=nf4)
    block = Summarization(source="x", license="MIT", instruction="{dialogue}")
    recipe = Recipe(folder / "r.yml", {"base_model": str(base), "load_in_4bit": nf4}, block)
    return recipe, adapter, merged


@pytest.mark.parametrize(
    ("dtype", "adapter_dtype", "settings"),
    [
        ("float32", "float32", {}),
        ("float32", "bfloat16", {}),
        ("bfloat16", "float32", {}),
        ("bfloat16", "bfloat16", {}),
        ("bfloat16", "float32", {"use_rslora": True}),
        ("float32", "float32", {"use_dora": True}),
        ("bfloat16", "bfloat16", {"use_dora": True}),
        ("bfloat16", "float32", {"nf4": True}),
    ],
)
def test_correct_merges_pass(
    tmp_path: Path, tiny_smollm2: Path, dtype: str, adapter_dtype: str, settings: dict[str, Any]
) -> None:
    kinds = (getattr(torch, dtype), getattr(torch, adapter_dtype))
    recipe, adapter, merged = merge(tmp_path, tiny_smollm2, *kinds, **settings)
    checks = check_weights(recipe, adapter, merged)
    assert all(check.holds for check in checks), checks
    assert checks[CHANGED].found == "4 of 4" and dtype in checks[STEPS].what
    # the base model itself is not a merge
    checks = check_weights(recipe, adapter, Path(recipe.config["base_model"]))
    assert not checks[STEPS].holds and checks[CHANGED].found.startswith("0 of 4")


def test_a_head_that_peft_saved_with_the_adapter(tmp_path: Path, tiny_mistral: Path) -> None:
    """Axolotl's merge rounds the base model's head to NF4; a trained head would be lost."""
    more: dict[str, Any] = {"nf4": True, "target_modules": ["q_proj", "lm_head"]}
    recipe, adapter, merged = merge(tmp_path, tiny_mistral, torch.bfloat16, **more)
    checks = check_weights(recipe, adapter, merged)
    assert all(check.holds for check in checks), checks
    weights = load_file(adapter / "adapter_model.safetensors")
    (head,) = (name for name in weights if name.endswith("lm_head.base_layer.weight"))
    weights[head] *= 1.1
    save_file(weights, adapter / "adapter_model.safetensors", {"format": "pt"})
    checks = check_weights(recipe, adapter, merged)
    assert not checks[STEPS].holds and "lm_head" in checks[STEPS].found, checks


def one_weight(weights: Weights, base: Weights) -> None:
    weights[DOWN][3, 5] += 1e-5


def not_a_number(weights: Weights, base: Weights) -> None:
    weights[DOWN][3, 5] = torch.nan


def another_tensor(weights: Weights, base: Weights) -> None:
    weights[NORM][7] *= 1 + 2**-23  # the next larger fp32 number


def left_out(weights: Weights, base: Weights) -> None:
    weights[DOWN] = base[DOWN]


def missing(weights: Weights, base: Weights) -> None:
    del weights[NORM]


def added(weights: Weights, base: Weights) -> None:
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()


def other_shape(weights: Weights, base: Weights) -> None:
    weights[NORM] = weights[NORM][:-1].clone()


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Any:
    return merge(tmp_path_factory.mktemp("right"), tiny_smollm2)


@pytest.mark.parametrize(
    ("spoil", "broken", "found"),
    [
        (one_weight, {STEPS}, DOWN),
        (not_a_number, {STEPS, CHANGED}, DOWN),
        (left_out, {STEPS, CHANGED}, DOWN),
        (another_tensor, {OTHER}, NORM),
        (missing, {NAMES}, NORM),
        (added, {NAMES}, "lm_head.weight"),
        (other_shape, {NAMES}, NORM),
    ],
)
def test_damaged_merges_fail(
    right: tuple[Recipe, Path, Path],
    tmp_path: Path,
    spoil: Callable[[Weights, Weights], None],
    broken: set[int],
    found: str,
) -> None:
    recipe, adapter, merged = right
    weights = load_file(merged / "model.safetensors")
    spoil(weights, load_file(merged.parent / "base/model.safetensors"))
    save_file(weights, tmp_path / "model.safetensors")
    checks = check_weights(recipe, adapter, tmp_path)
    assert {place for place, check in enumerate(checks) if not check.holds} == broken
    assert all(found in checks[place].found for place in broken)


def test_a_change_within_a_rounding_step_is_required_too(
    tmp_path: Path, tiny_smollm2: Path
) -> None:
    recipe, adapter, merged = merge(tmp_path, tiny_smollm2, torch.bfloat16, size=2e-5)
    assert all(check.holds for check in check_weights(recipe, adapter, merged))
    checks = check_weights(recipe, adapter, Path(recipe.config["base_model"]))
    assert checks[STEPS].holds and checks[CHANGED].found.startswith("0 of 4")


def test_an_embedding_that_axolotl_leaves_out_is_found(tmp_path: Path, tiny_mistral: Path) -> None:
    recipe, adapter, merged = merge(
        tmp_path, tiny_mistral, target_modules=["q_proj", "embed_tokens"]
    )
    checks = check_weights(recipe, adapter, merged)
    assert not checks[CHANGED].holds and "model.embed_tokens.weight" in checks[CHANGED].found
