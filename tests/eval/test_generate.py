"""Generation: batch plans, engines and decoding settings, with the real small model."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, GenerationConfig

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.prompt import read_examples
from data_prep.recipe import Recipe, load_recipe
from data_prep.settings import Decoding
from eval import generate as generation
from eval import vllm_engine
from eval.generate import Summarizer, plan_batches, resolve
from eval.hf_engine import HfEngine
from tests.conftest import command, derived_recipe

DIALOGUES = 6
Prompts = list[list[int]]
FP32: dict[str, Any] = {"dtype": "float32", "max_new_tokens": 24}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, shallow_smollm2: Path) -> Recipe:
    folder, model = tmp_path_factory.mktemp("generate"), str(shallow_smollm2)
    path = derived_recipe("smollm2_samsum", folder, "generate", base_model=model)
    prepare(load_recipe(path))
    return load_recipe(path)


@pytest.fixture(scope="module")
def summarizer(recipe: Recipe) -> Summarizer:
    return Summarizer(recipe, Decoding(**FP32))


@pytest.fixture(scope="module")
def prompts(recipe: Recipe, summarizer: Summarizer) -> Prompts:
    examples = read_examples(recipe.data_dir / "test.jsonl")[:DIALOGUES]
    return [summarizer.encoder.prompt_ids(example) for example in examples]


def generate(
    summarizer: Summarizer, prompts: Prompts, seed: int = 0, **settings: Any
) -> list[list[int]]:
    """Return the ids of one batch of all dialogues with other settings, cut after the end token."""
    engine = summarizer.engine
    assert isinstance(engine, HfEngine)
    before, engine.decoding = engine.decoding, Decoding(**{**FP32, **settings})
    try:
        made = engine.generate(prompts, seed)
    finally:
        engine.decoding = before
    return [cut(ids, summarizer.ends[0]) for ids in made]


def cut(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def plain(summarizer: Summarizer, prompts: Prompts, **settings: Any) -> list[list[int]]:
    """Use Transformers' own `generate` and attention, one dialogue at a time."""
    model = AutoModelForCausalLM.from_pretrained(
        summarizer.recipe.config["base_model"], dtype=torch.float32
    ).eval()
    config = GenerationConfig(
        **{"do_sample": False, "max_new_tokens": 24, **settings},
        eos_token_id=summarizer.ends[0], pad_token_id=summarizer.ends[0],
    )  # fmt: skip
    made = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
            )
        made.append(cut(out[0, len(prompt) :].tolist(), summarizer.ends[0]))
    return made


def test_plan_stays_in_the_budget_and_takes_the_longest_rows_first() -> None:
    lengths = [18, 300, 20, 20, 150, 5, 149, 148]
    plan = plan_batches(lengths, Decoding(max_new_tokens=50, batch_tokens=400))
    assert plan == [[1], [4, 6], [7, 2], [3, 0, 5]]
    for batch in plan:
        assert len(batch) * (max(lengths[row] for row in batch) + 50) <= 400
    tiny = plan_batches(lengths, Decoding(batch_tokens=1))
    assert sorted(map(tuple, tiny)) == [(n,) for n in range(8)]
    assert list(map(len, plan_batches([5] * 300, Decoding(batch_tokens=10**6)))) == [128, 128, 44]
    beams = plan_batches(lengths, Decoding(max_new_tokens=50, batch_tokens=400, num_beams=2))
    assert beams == [[1], [4], [6], [7], [2, 3], [0, 5]]


def test_dtype_auto_is_resolved_and_a_given_dtype_is_kept() -> None:
    assert resolve(Decoding()).dtype in ("bfloat16", "float16", "float32")
    assert resolve(Decoding(dtype="float32")).dtype == "float32"


def test_auto_takes_vllm_if_it_is_installed_and_worth_loading(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def engine(dialogues: int, of: Recipe = recipe, **settings: Any) -> str:
        decoding = Decoding(**{"engine": "auto", "dtype": "bfloat16", **settings})
        return resolve(decoding, of, dialogues).engine

    monkeypatch.setattr(generation, "find_spec", lambda name: None)
    assert engine(819) == "hf"
    monkeypatch.setattr(generation, "find_spec", lambda name: name == "vllm")
    assert engine(819) == "vllm" and engine(699) == "hf"
    assert engine(819, dtype="float32") == engine(819, num_beams=2) == "hf"
    assert engine(819, no_repeat_ngram_size=3) == engine(819, engine="hf") == "hf"
    qlora = replace(recipe, config={**recipe.config, "load_in_4bit": True})
    assert engine(819, qlora) == "hf"
    monkeypatch.setenv("WORLD_SIZE", "2")  # all processes would start vLLM on the first card
    assert engine(819) == "hf"
    with pytest.raises(UserError, match="start one process, or set `engine: hf`"):
        monkeypatch.setattr(vllm_engine, "find_spec", lambda name: True)
        Summarizer(recipe, Decoding(engine="vllm", dtype="float32"))


def test_a_gpu_before_ampere_evaluates_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch emulates bf16 there and reports it as supported, which is simulated here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for native, dtype in ((False, "float16"), (True, "bfloat16")):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True, native=native: native or including_emulation,
        )
        assert resolve(Decoding()).dtype == dtype


def test_batched_outputs_equal_one_at_a_time(summarizer: Summarizer, prompts: Prompts) -> None:
    """In fp32, with grouped attention and a batch that shrinks as summaries end."""
    assert generate(summarizer, prompts) == plain(summarizer, prompts)


@pytest.mark.slow
def test_length_settings_and_penalties_hold_across_strides(
    summarizer: Summarizer, prompts: Prompts
) -> None:
    settings: dict[str, Any] = {
        "min_new_tokens": 20,
        "no_repeat_ngram_size": 3,
        "repetition_penalty": 1.2,
    }
    made = generate(summarizer, prompts, **settings)
    assert made == plain(summarizer, prompts, **settings)
    assert made != generate(summarizer, prompts)
    assert all(len(ids) >= 20 for ids in made)


@pytest.mark.slow
def test_beam_search_equals_that_of_transformers(summarizer: Summarizer, prompts: Prompts) -> None:
    settings: dict[str, Any] = {"num_beams": 2, "length_penalty": 0.5}
    made = generate(summarizer, prompts, **settings)
    assert made == plain(summarizer, prompts, **settings)
    assert made != generate(summarizer, prompts)


@pytest.mark.slow
def test_sampling_repeats_only_with_the_same_seed(summarizer: Summarizer, prompts: Prompts) -> None:
    settings: dict[str, Any] = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "top_k": 50}
    first = generate(summarizer, prompts, seed=1, **settings)
    assert first == generate(summarizer, prompts, seed=1, **settings)
    assert first != generate(summarizer, prompts, seed=2, **settings)
    cold: dict[str, Any] = {**settings, "temperature": 0.0001}
    assert generate(summarizer, prompts, **cold) == generate(summarizer, prompts)


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from data_prep.prompt import read_examples
from data_prep.recipe import load_recipe
from data_prep.settings import Decoding
from eval.generate import Summarizer
recipe = load_recipe(sys.argv[1])
examples = read_examples(recipe.data_dir / "test.jsonl") * 2
made = Summarizer(recipe, Decoding(dtype="float32", max_new_tokens=2))
encoded = [made.encoder.prompt_ids(example) for example in examples[: int(sys.argv[3])]]
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[2]) * 2**20,) * 2)
prompts = [prompt * int(sys.argv[4]) for prompt in encoded]
outputs = made.engine.generate(prompts, 0)
print("made", len(outputs), "in", made.engine.pieces, all(outputs))
"""


def _with_memory(
    recipe: Recipe, mebibytes: int, dialogues: int, times: int = 1
) -> subprocess.CompletedProcess[str]:
    """Generate in `mebibytes` more than the loaded model; prompts are `times` as long."""
    sizes = map(str, (mebibytes, dialogues, times))
    return command("python", "-c", LITTLE_MEMORY, recipe.path, *sizes)


@pytest.mark.slow
def test_a_batch_that_does_not_fit_in_memory_is_halved(recipe: Recipe) -> None:
    """A real shortage: the address space of the process ends 300 MiB above the loaded model."""
    done = _with_memory(recipe, 300, 64)
    assert done.returncode == 0, done.stderr[-2000:]
    words = done.stdout.split()
    assert words[:2] == ["made", "64"] and int(words[3]) > 1 and words[4] == "True"
    assert "memory ran out: continuing with" in done.stderr


@pytest.mark.slow
def test_a_single_dialogue_that_does_not_fit_ends_with_one_line(recipe: Recipe) -> None:
    done = _with_memory(recipe, 300, 1, times=100)
    assert "memory runs out on a single dialogue of" in done.stderr.splitlines()[-1]


NO_ROOM = """
import resource, sys, torch
from data_prep.errors import run_cli
from data_prep.recipe import load_recipe
from data_prep.settings import Decoding
from eval.generate import Summarizer
from eval.hf_engine import HfEngine
recipe = load_recipe(sys.argv[1])
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 150 * 2**20, -1))
run_cli(lambda: HfEngine(recipe, Decoding(dtype="float32"), [2], 2, 49152))
"""


@pytest.mark.slow
def test_a_model_that_does_not_fit_in_memory_ends_with_one_line(recipe: Recipe) -> None:
    """A real shortage: the embeddings alone take 113 MB in fp32."""
    done = command("python", "-c", NO_ROOM, recipe.path)
    assert done.returncode == 2, done.stderr
    assert "memory runs out while the base model is loaded" in done.stderr.splitlines()[-1]


def test_an_adapter_that_does_not_fit_in_memory_is_not_called_unfit(
    summarizer: Summarizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.95 GiB")

    monkeypatch.setattr("eval.hf_engine.load_peft_weights", load)
    assert isinstance(summarizer.engine, HfEngine)
    with pytest.raises(UserError, match="memory runs out while the adapter is loaded"):
        summarizer.engine.attach_beside(tmp_path)


def test_a_missing_vllm_is_reported(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="engine is vllm, which is not installed"):
        Summarizer(recipe, Decoding(engine="vllm", dtype="float32"))


def test_vllm_is_refused_for_a_quantised_recipe(recipe: Recipe) -> None:
    qlora = replace(recipe, config={**recipe.config, "adapter": "qlora", "load_in_4bit": True})
    with pytest.raises(UserError, match="trains and evaluates it in nf4; set `engine: hf`"):
        Summarizer(qlora, Decoding(engine="vllm", dtype="float32"))


@pytest.mark.parametrize(
    ("change", "plain"),
    [
        ({}, True),
        ({"use_rslora": True}, True),
        ({"use_dora": True}, False),
        ({"init_lora_weights": "pissa"}, False),
        ({"modules_to_save": ["lm_head"]}, False),
        ({"target_modules": ["q_proj", "lm_head"]}, False),
        ({"target_modules": ".*_proj"}, False),
        ({"rank_pattern": {"q_proj": 4}}, False),
        ({"alpha_pattern": {"q_proj": 4}}, False),
        ({"bias": "lora_only"}, False),
    ],
)
def test_auto_takes_vllm_only_for_a_plain_adapter(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, change: dict, plain: bool
) -> None:
    config = LoraConfig(**{"target_modules": ["q_proj", "up_proj"], **change})
    config.save_pretrained(str(tmp_path))
    monkeypatch.setattr(generation, "find_spec", lambda name: name == "vllm")
    decoding = Decoding(engine="auto", dtype="bfloat16")
    assert (resolve(decoding, recipe, 819, tmp_path).engine == "vllm") == plain


def test_eager_attention_in_a_recipe_is_used_in_evaluation(recipe: Recipe) -> None:
    eager = replace(recipe, config={**recipe.config, "attn_implementation": "eager"})
    engine = Summarizer(eager, Decoding(**FP32)).engine
    assert isinstance(engine, HfEngine)
    assert engine.model.config._attn_implementation == "eager"
