"""Batched greedy outputs in fp32 equal those of one prompt at a time, for each kind of model."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from data_prep.recipe import load_recipe
from data_prep.settings import Decoding
from eval.generate import Summarizer
from eval.hf_engine import HfEngine, Settings, generate, use_grouped_attention
from tests.conftest import derived_recipe
from training.preflight import check_model

SMALL: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
HYBRID = {"layer_types": ["linear_attention", "full_attention"] * 2, "linear_num_value_heads": 4,
          "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
          "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
          "shared_expert_intermediate_size": 32}  # fmt: skip
DEEPSEEK = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
            "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
            "v_head_dim": 16, "moe_intermediate_size": 32, "num_key_value_heads": 4}  # fmt: skip
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 8.0,
            "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
            "original_max_position_embeddings": 60}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "Mistral": ("mistral", {"sliding_window": None}),
    "Mistral, window shorter than the prompt": ("mistral", {"sliding_window": 12}),
    "Qwen3": ("qwen3", {"head_dim": 16}),
    "Llama 3, tied": ("llama", {"tie_word_embeddings": True}),
    "Gemma 3": ("gemma3_text", {"head_dim": 16, "sliding_window": 8}),
    "Phi-3": ("phi3", {}),
    "Mixtral": ("mixtral", {"num_local_experts": 4}),
    "Gemma 2": ("gemma2", {"head_dim": 16, "attn_implementation": "eager"}),
    "GPT-OSS": ("gpt_oss", {"num_local_experts": 4, "head_dim": 16, "sliding_window": 8,
                            "attn_implementation": "eager"}),
    "Qwen2-MoE": ("qwen2_moe", {"num_experts": 4, "moe_intermediate_size": 32,
                                "shared_expert_intermediate_size": 32}),
    "DeepSeek-V3": ("deepseek_v3", DEEPSEEK),
    "Mamba2": ("mamba2", {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 8}),
    "hybrid linear attention (Qwen3-Next)": ("qwen3_next", HYBRID),
    "state outside the cache (RecurrentGemma)": (
        "recurrent_gemma", {"attention_window_size": 16, "lru_width": 64}),
    "ALiBi attention (MPT)": (
        "mpt", {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}),
    "rotary embeddings that depend on the length": ("llama", {"rope_parameters": LONGROPE}),
}  # fmt: skip
NEW = 40


def one_by_one(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    """Return NEW tokens for each prompt, generated alone and without an end token."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=NEW, eos_token_id=-1, pad_token_id=0, use_cache=True
    )
    made = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        made.append(out[0, len(prompt) :].tolist())
    return made


@pytest.mark.parametrize("shared", [0, 14])
@pytest.mark.parametrize("kind", KINDS)
def test_batched_outputs_equal_one_at_a_time(kind: str, shared: int) -> None:
    """Prompts are read in groups of similar length; a start that all share is read once."""
    name, more = KINDS[kind]
    if "Qwen3-Next" in kind and find_spec("triton") and not torch.cuda.is_available():
        pytest.skip("PyTorch's CUDA build without a card: the package fla asks Triton for one")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**SMALL, **more})).eval()
    with torch.no_grad():  # a new model's flat logits would hide differences
        for weight in model.parameters():
            weight.mul_(2.0)
    begin = torch.randint(6, 128, (shared,)).tolist()
    prompts = [begin + torch.randint(6, 128, (n,)).tolist() for n in (24, 9, 31, 24, 3)]
    alone = one_by_one(model, prompts)
    ends = [alone[0][10], alone[1][20]]  # two end tokens, so that rows end at different times

    def cut(ids: list[int]) -> list[int]:
        return ids[: next((n for n, token in enumerate(ids) if token in ends), NEW) + 1]

    use_grouped_attention(model)
    made = generate(model, prompts, Settings(Decoding(max_new_tokens=NEW), ends, 0, "cpu"))
    assert [cut(ids) for ids in made] == [cut(ids) for ids in alone]
    assert len({len(cut(ids)) for ids in alone}) > 1


def test_a_repetition_penalty_ignores_padding() -> None:
    """When padding was an end token, as in some models, shorter prompts never ended."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SMALL)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2.0)
    prompts = [torch.randint(6, 128, (n,)).tolist() for n in (31, 24, 9)]
    decoding = Decoding(max_new_tokens=NEW, repetition_penalty=1.5)
    free = [generate(model, [prompt], Settings(decoding, [-1], 0, "cpu"))[0] for prompt in prompts]
    end = next(token for token in free[2][3:] if all(token not in prompt for prompt in prompts))
    settings = Settings(decoding, [end], end, "cpu")
    alone = [generate(model, [prompt], settings)[0] for prompt in prompts]
    together = generate(model, prompts, settings)
    assert together[2][: len(alone[2])] == alone[2] and alone[2][-1] == end


def test_generation_settings_of_the_model_are_not_used(tmp_path: Path) -> None:
    """Gemma 2 also gets eager attention, since sdpa ignores its soft-capping."""
    config = AutoConfig.for_model("gemma2", **SMALL, head_dim=16)
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.suppress_tokens = [5]
    model.save_pretrained(tmp_path / "base")
    path = derived_recipe("smollm2_samsum", tmp_path, "other", base_model=str(tmp_path / "base"))
    engine = HfEngine(load_recipe(path), Decoding(dtype="float32"), [2], 0, 128)
    assert engine.model.config._attn_implementation == "eager"
    assert engine.model.generation_config.suppress_tokens is None


BOTH = ["lm_head", "embed_tokens"]
ADDED = {"tokens": ["<sum>", "</sum>"], "lora_modules_to_save": BOTH}
ADAPTERS: dict[str, tuple[bool, dict[str, Any], dict[str, Any]]] = {  # tied, PEFT keys, recipe keys
    "LoRA": (True, {}, {}),
    "DoRA": (True, {"use_dora": True}, {}),
    "rsLoRA": (True, {"use_rslora": True}, {}),
    "PiSSA": (True, {"init_lora_weights": "pissa"}, {}),
    "lm_head, tied": (True, {"target_modules": ["q_proj", "lm_head"]}, {}),
    "lm_head": (False, {"target_modules": ["q_proj", "lm_head"]}, {}),
    "embedding, tied": (True, {"target_modules": ["q_proj", "embed_tokens"]}, {}),
    "embedding": (False, {"target_modules": ["q_proj", "embed_tokens"]}, {}),
    "both saved, tied": (True, {"modules_to_save": BOTH}, {}),
    "both saved": (False, {"modules_to_save": BOTH}, {}),
    "a token, tied": (True, {"trainable_token_indices": [900]}, {}),
    "a token": (False, {"trainable_token_indices": {"lm_head": [900]}}, {}),
    "added tokens, tied": (True, {"modules_to_save": BOTH}, ADDED),
    "added tokens": (False, {"modules_to_save": BOTH}, ADDED),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_generates_the_same_as_in_training(
    tmp_path: Path, tiny_smollm2: Path, name: str
) -> None:
    """The engine chooses whether to merge; a merge would change both tied embeddings."""
    tied, settings, more = ADAPTERS[name]
    base = tmp_path / "base"
    shutil.copytree(tiny_smollm2, base)
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(base, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    path = derived_recipe("smollm2_samsum", tmp_path, "other", base_model=str(base), **more)
    recipe = load_recipe(path)
    model = AutoModelForCausalLM.from_pretrained(base)
    size = config.vocab_size + len(more.get("tokens", []))
    model.resize_token_embeddings(size)
    lora = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"],
                         "init_lora_weights": True, **settings})  # fmt: skip
    tuned: Any = get_peft_model(model, lora)
    for weight in tuned.parameters():
        if weight.requires_grad:
            weight.data += 0.3 * torch.randn_like(weight)
    tuned.eval().save_pretrained(recipe.output_dir)
    ours = Summarizer(recipe, Decoding(dtype="float32", max_new_tokens=12), recipe.output_dir)
    assert isinstance(ours.engine, HfEngine)
    prompts = [[5, 900, 17, 3000, size - 1], [44, 45]]
    settings = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 0}
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = tuned.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(**settings, eos_token_id=ours.ends),
        )  # fmt: skip
        expected.append(out[0, len(prompt) :].tolist())
    ours.use("tuned")
    made = ours.engine.generate(prompts, 0)
    assert [ids[: len(e)] for ids, e in zip(made, expected, strict=True)] == expected
    ids = torch.tensor(prompts[:1])
    with torch.no_grad():
        our_logits, training_logits = ours.engine.model(ids).logits, tuned(ids).logits
    torch.testing.assert_close(our_logits, training_logits, rtol=1e-4, atol=1e-4)


def test_a_model_with_its_own_code(tmp_path: Path, tiny_smollm2: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_smollm2, base)
    (base / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n\n\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((base / "config.json").read_text("utf-8"))
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config |= {"model_type": "own", "auto_map": names}
    (base / "config.json").write_text(json.dumps(config), "utf-8")
    made = []
    for model, more in ((base, {"trust_remote_code": True}), (tiny_smollm2, {})):
        path = derived_recipe("smollm2_samsum", tmp_path, "own", base_model=str(model), **more)
        recipe = load_recipe(path)
        ours = Summarizer(recipe, Decoding(dtype="float32", max_new_tokens=12))
        problems, said = check_model(recipe, ours.encoder.tokenizer, ours.ends[0])
        made.append((problems, said, ours.engine.generate([[5, 900, 17], [44]], 0)))
    assert made[0] == made[1]
