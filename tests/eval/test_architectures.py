"""Batched greedy outputs in fp32 are those of one prompt at a time, for each kind of model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from data_prep.prepare import prepare
from data_prep.recipe import Recipe, load_recipe
from data_prep.settings import Decoding
from eval.generate import Summarizer
from eval.hf_engine import HfEngine, Settings, generate, use_grouped_attention
from tests.conftest import derived_recipe

SMALL: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
HYBRID = {"layer_types": ["linear_attention", "full_attention"] * 2, "linear_num_value_heads": 4,
          "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
          "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
          "shared_expert_intermediate_size": 32}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "Mistral": ("mistral", {"sliding_window": None}),
    "Mistral, a window shorter than the prompt": ("mistral", {"sliding_window": 12}),
    "Qwen3": ("qwen3", {"head_dim": 16}),
    "Llama 3, tied": ("llama", {"tie_word_embeddings": True}),
    "Gemma 3": ("gemma3_text", {"head_dim": 16, "sliding_window": 8}),
    "Phi-3": ("phi3", {}),
    "Mixtral": ("mixtral", {"num_local_experts": 4}),
    "a hybrid of linear attention (Qwen3-Next)": ("qwen3_next", HYBRID),
}
NEW = 40


def one_by_one(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    """Forty new tokens of each; the models are random, and end nothing by themselves."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=NEW, eos_token_id=-1, pad_token_id=0, use_cache=True
    )
    made = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        made.append(out[0, len(prompt) :].tolist())
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_batched_outputs_are_those_of_one_by_one(kind: str) -> None:
    name, more = KINDS[kind]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**SMALL, **more})).eval()
    with torch.no_grad():  # flat logits of a new model would hide differences
        for weight in model.parameters():
            weight.mul_(2.0)
    prompts = [torch.randint(6, 128, (n,)).tolist() for n in (31, 24, 24, 9, 3)]
    alone = one_by_one(model, prompts)
    ends = [alone[0][10], alone[1][20]]  # two tokens that end a summary, some rows before others

    def cut(ids: list[int]) -> list[int]:
        return ids[: next((n for n, token in enumerate(ids) if token in ends), NEW) + 1]

    use_grouped_attention(model)
    made = generate(model, prompts, Settings(Decoding(max_new_tokens=NEW), ends, 0, "cpu"))
    assert [cut(ids) for ids in made] == [cut(ids) for ids in alone]
    assert len({len(cut(ids)) for ids in alone}) > 1


@pytest.fixture
def recipe(tmp_path: Path, tiny_smollm2: Path) -> Recipe:
    path = derived_recipe("smollm2_samsum", tmp_path, "tied", base_model=str(tiny_smollm2))
    prepare(load_recipe(path))
    return load_recipe(path)


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": ["q_proj", "lm_head"]},
     {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
     {"target_modules": ["q_proj", "embed_tokens"]}],
    ids=["lm_head", "both saved", "embedding"],
)  # fmt: skip
def test_an_adapter_on_tied_embeddings_says_what_it_said_in_training(
    recipe: Recipe, settings: dict[str, Any]
) -> None:
    """Merged into the weights, it would change the embedding at both ends."""
    base = recipe.config["base_model"]
    torch.manual_seed(1)
    tuned: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, lora_alpha=8, **settings)
    )
    for weight in tuned.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.5)
    tuned.save_pretrained(recipe.output_dir)
    in_training = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), recipe.output_dir
    ).eval()
    ours = Summarizer(recipe, Decoding(dtype="float32", max_new_tokens=12), recipe.output_dir)
    assert isinstance(ours.engine, HfEngine)
    prompts = [[5, 900, 17, 3000], [44, 45]]
    config = GenerationConfig(
        do_sample=False, max_new_tokens=12, eos_token_id=ours.ends, pad_token_id=0
    )
    expected = [
        in_training.generate(
            input_ids=torch.tensor([p]), attention_mask=torch.ones(1, len(p)),
            generation_config=config,
        )[0, len(p) :].tolist()
        for p in prompts
    ]  # fmt: skip
    ours.use("tuned")
    made = ours.engine.generate(prompts, 0)
    assert [ids[: len(e)] for ids, e in zip(made, expected, strict=True)] == expected
