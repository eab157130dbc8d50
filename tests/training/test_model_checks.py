"""Recipes that do not fit their base model, found before training with small models."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from data_prep.recipe import Recipe, load_recipe
from tests.conftest import derived_recipe
from training.preflight import check_model, looks_untrained

END = 2  # SmolLM2's <|im_end|>
SMALL: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_modules": SEVEN}


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm2)


def of_kind(folder: Path, kind: str, config: dict[str, Any], **more: Any) -> Recipe:
    """Return a recipe for a model of this kind that has a config but no weights."""
    AutoConfig.for_model(kind, **{**SMALL, **more}).save_pretrained(folder)
    recipe = load_recipe(derived_recipe("smollm2_samsum", folder, "small"))
    return replace(recipe, config={"base_model": str(folder), **LORA, **config})


@pytest.mark.parametrize(
    ("kind", "more", "config", "problem", "reached"),
    [
        ("llama", {}, {}, "", "q_proj 2, up_proj 2, v_proj 2 modules"),
        (
            "phi3", {"pad_token_id": 0}, {},
            "gate_proj, k_proj, q_proj, up_proj, v_proj in lora_target_modules or "
            "lora_modules_to_save: 5 of 7 names match no module of Phi3ForCausalLM; its linear "
            "layers are o_proj 2, qkv_proj 2, gate_up_proj 2, down_proj 2: name some of them, or "
            "set `lora_target_linear: true` in place of the names", "",
        ),
        (
            "phi3", {"pad_token_id": 0},
            {"lora_target_modules": None, "lora_target_linear": True}, "",
            "down_proj 2, gate_up_proj 2, o_proj 2, qkv_proj 2",
        ),
        ("gpt_neox", {}, {}, "7 of 7 names match no module of GPTNeoXForCausalLM", ""),
        (
            "llama", {}, {"lora_modules_to_save": ["embed_in"]},
            "embed_in in lora_target_modules or lora_modules_to_save: 1 of 8 names", "",
        ),
        ("llama", {}, {"lora_target_modules": r"model.layers.1.*(q|v)_proj"}, "", " 2 modules"),
        ("llama", {}, {"lora_target_modules": r".*\.query"}, "1 of 1 names", ""),
        (
            "mixtral", {"num_local_experts": 2}, {},
            "down_proj, gate_proj, up_proj in lora_target_modules or lora_modules_to_save: 3 of 7 "
            "names match no module of MixtralForCausalLM; its linear layers are q_proj 2, k_proj "
            "2, v_proj 2, o_proj 2 (experts, for lora_target_parameters: experts.down_proj, "
            "experts.gate_up_proj)", "",
        ),
        (
            "mixtral", {"num_local_experts": 2},
            {"lora_target_modules": None, "lora_target_linear": True}, "",
            "the experts (experts.down_proj, experts.gate_up_proj) stay as they are",
        ),
        (
            "gpt_oss", {"num_local_experts": 2},
            {"attn_implementation": "sdpa", "adapter": None},
            "attn_implementation: sdpa: GptOssForCausalLM does not support it; set "
            "`attn_implementation: eager`", "",
        ),
        ("gpt_oss", {"num_local_experts": 2}, {"attn_implementation": "eager", "adapter": None},
         "", ""),
        ("gemma2", {"head_dim": 8}, {"attn_implementation": None},
         "sdpa, the default, leaves out the soft-capping of Gemma2ForCausalLM", "q_proj 2"),
        ("mamba2", {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8},
         {"sdp_attention": True, "adapter": None}, "Mamba2ForCausalLM does not support it", ""),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_the_model(
    tmp_path: Path, tokenizer: Any, kind: str, more: dict[str, Any], config: dict[str, Any],
    problem: str, reached: str,
) -> None:  # fmt: skip
    recipe = of_kind(tmp_path, kind, config, **more)
    problems, lines = check_model(recipe, tokenizer, END)
    assert len(problems) == bool(problem)
    assert problem in "".join(problems) and reached in "".join(lines)
    for fix in ("sdpa", "eager"):  # the suggested attention must load
        if f"attn_implementation: {fix}`" in "".join(problems):
            AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(tmp_path), attn_implementation=fix
            )


@pytest.mark.parametrize("kind", ["unused", "zero"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_end_token_that_the_model_never_learnt_is_reported(
    tmp_path: Path, tokenizer: Any, kind: str, tied: bool
) -> None:
    recipe = of_kind(tmp_path, "llama", {}, tie_word_embeddings=tied)
    config = AutoConfig.from_pretrained(tmp_path)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert check_model(recipe, tokenizer, END)[0] == []
    weights = load_file(tmp_path / "model.safetensors")
    matrix = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
    matrix[END] = matrix[7] * 1.01 + 1e-5 * torch.randn(32) if kind == "unused" else 0
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    [problem] = check_model(recipe, tokenizer, END)[0]
    key = "[2]" if tied else "{lm_head: [2]}"
    assert problem.endswith(f"add `peft_trainable_token_indices: {key}`")
    assert "never learnt '<|im_end|>'" in problem
    for more in (
        {"peft_trainable_token_indices": [2] if tied else {"lm_head": [2]}},
        {"lora_modules_to_save": ["embed_tokens", "lm_head"]},
        {"adapter": None},
    ):
        fixed = replace(recipe, config={**recipe.config, **more})
        assert check_model(fixed, tokenizer, END)[0] == []


def test_untrained_rows_of_the_real_model(smollm2: Path) -> None:
    """The model never saw `<issue_start>` (id 8) in training, and its last row is 49151."""
    config = {"base_model": str(smollm2)}
    found = [looks_untrained(config, "embed_tokens.weight", row) for row in (END, 17, 8, 49152)]
    assert found == [False, False, True, True]


def test_a_tokenizer_that_does_not_restore_a_text_is_reported(
    tmp_path: Path, smollm2: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(smollm2 / name, tmp_path)
    path = tmp_path / "tokenizer.json"
    settings = json.loads(path.read_text("utf-8"))
    settings["decoder"] = {"type": "Fuse"}  # Ġ instead of blanks
    path.write_text(json.dumps(settings), "utf-8")
    wrong = AutoTokenizer.from_pretrained(tmp_path)
    [problem] = check_model(of_kind(tmp_path, "llama", {}), wrong, END)[0]
    assert "turns 'Hello world' into 'HelloĠworld'" in problem
