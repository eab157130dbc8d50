"""Save a model of a recipe's architecture with random weights, and a tokenizer, without the Hub.

    python -m scripts.random_model recipes/mistral_samsum.yml models/mistral-random
    python -m scripts.random_model recipes/mistral_samsum.yml models/mistral-tiny --width 64

Speed and memory do not depend on the values of the weights, so the first command is for
measurements (scripts/bench_gpu.py). The second makes two layers of width 64 for dry runs
(scripts/dry_run.py). `rows_for` makes rows as long as SAMSum's, without its text, for the same
measurements. The numbers are from each model's published `config.json`. Mistral's tokenizer is the
real one, from mistral-common. The others' vocabularies are only on the Hub, so these models get
Mistral's pieces with the control tokens of their own template.
"""

import contextlib
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.errors import UserError, run_cli, writing_to
from data_prep.options import Options
from data_prep.prepare import prepare
from data_prep.prompt import Example, TokenCounter
from data_prep.recipe import Recipe, load_recipe
from data_prep.settings import PLACE, Summarization

PUBLISHED: dict[str, dict[str, Any]] = {
    "mistralai/Mistral-7B-Instruct-v0.2": {
        "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
        "sliding_window": None, "bos_token_id": 1, "eos_token_id": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "Qwen/Qwen3-0.6B": {
        "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024,
        "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "meta-llama/Llama-3.2-1B-Instruct": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048,
        "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    },
}  # fmt: skip
SAMSUM_ROWS, TOKENS_A_ROW = 14_637, 216.6  # decontaminated, in Mistral's tokens
TEST_ROWS = 819  # of SAMSum
# Tokens per row: a log-normal distribution fitted to SAMSum with Mistral's tokenizer, cut off at
# SAMSum's longest row; a test compares the two.
MEDIAN, SPREAD, LONGEST = 185, 0.56, 1200
SUMMARY_SHARE = 0.12  # share of a row's tokens
WORDS = ["the", "we", "you", "meet", "station", "tomorrow", "at", "seven", "dinner", "sure",
         "maybe", "bring", "photos", "train", "late", "see", "there", "great", "wait",
         "call"]  # fmt: skip
LAYERS = 2  # of a model with --width
HEAD = 16
SHARD = "5GB"  # like Mistral's on the Hub, because merging reads one shard at a time
CONTROL_TOKENS: dict[str, dict[str, Any]] = {  # for models whose tokenizers are only on the Hub
    "qwen3": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None,
              "extra_special_tokens": ["<|im_start|>"]},
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>",
              "extra_special_tokens": ["<|start_header_id|>", "<|end_header_id|>",
                                       "<|finetune_right_pad_id|>"]},
}  # fmt: skip


def main() -> None:
    """Save the base model of a recipe."""
    parser = Options(
        "scripts.random_model", __doc__.splitlines()[0],
        "recipes/mistral_samsum.yml models/mistral-tiny --width 64",
    )  # fmt: skip
    parser.add_argument("recipe", type=Path, help="recipe file")
    parser.add_argument("target", type=Path, help="folder to save to")
    parser.add_argument("--width", type=int, help="save two layers of this width (default: the "
                        "published model's width and layers)")  # fmt: skip
    args = parser.parse_args()
    base_model = str(load_recipe(args.recipe).config["base_model"])
    parameters = save(base_model, args.target, args.width)
    print(f"{args.target}: {parameters:,} random parameters")


def save(base_model: str, target: Path, width: int | None = None) -> int:
    """Save model and tokenizer into a folder; return the number of parameters.

    The model has the published width in bf16, or hidden states of size `width` in fp32. Raises
    UserError for a model that is not in `PUBLISHED`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = describe(base_model, target, width)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        dtype = torch.float32 if width else torch.bfloat16
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(target, max_shard_size=SHARD)
    return int(model.num_parameters())


def describe(base_model: str, target: Path, width: int | None = None) -> Any:
    """Save everything that `save` does except the weights; return the model's config."""
    from transformers import AutoConfig

    if base_model not in PUBLISHED:
        raise UserError(f"base_model {base_model}: unknown here; use one of {[*PUBLISHED]}")
    published = dict(PUBLISHED[base_model])
    model_type = published.pop("model_type")
    tokenizer = mistral_tokenizer(CONTROL_TOKENS.get(model_type))
    if width:
        published |= {
            "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": LAYERS,
            "num_attention_heads": width // HEAD, "num_key_value_heads": max(1, width // HEAD // 2),
            "head_dim": HEAD, "vocab_size": len(tokenizer),
        }  # fmt: skip
    if model_type in CONTROL_TOKENS:
        for name in ("bos", "eos", "pad"):
            published[f"{name}_token_id"] = getattr(tokenizer, f"{name}_token_id")
    config = AutoConfig.for_model(model_type, **published)
    with writing_to(target):
        config.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return config


def mistral_tokenizer(controls: dict[str, Any] | None = None) -> Any:
    """Build Mistral's v1 tokenizer from mistral-common; `controls` replace its control tokens.

    Raises UserError if mistral-common or sentencepiece is not installed.
    """
    try:
        import mistral_common
        import sentencepiece
    except ImportError as error:
        raise UserError(f"{error.name} is missing; run `pip install -e .`") from error
    from transformers import LlamaTokenizer
    from transformers.convert_slow_tokenizer import generate_merges

    model_file = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.vocab_size())}
    scores = {pieces.id_to_piece(i): pieces.get_score(i) for i in range(pieces.vocab_size())}
    merges = generate_merges(vocab, scores)
    if controls is None:
        return LlamaTokenizer(vocab=vocab, merges=merges, legacy=False, add_bos_token=True)
    return LlamaTokenizer(vocab=vocab, merges=merges, legacy=False, add_bos_token=False, **controls)


# ---- rows ----


def on_source(recipe: Recipe, model: Path, source: Path) -> Recipe:
    """Return the recipe with this base model and all rows of this source."""
    block = recipe.summarization.model_copy(update=keys_for(recipe.summarization, source))
    config = {**recipe.config, "base_model": str(model)}
    return replace(recipe, config=config, summarization=block)


def keys_for(block: Summarization, source: Path) -> dict[str, Any]:
    """Return the keys of a `summarization:` block to replace, to read `source` instead.

    `source` has the columns `dialogue` and `summary`, and all splits.
    """
    keys: dict[str, Any] = {"source": str(source), "train_rows": "all"}
    keys |= dict.fromkeys(({"validation_rows", "test_rows"} & block.model_fields_set), 8)
    for column in {"dialogue_column", "summary_column"} & block.model_fields_set:
        keys[column] = column.removesuffix("_column")
    if block.prompt_columns:  # the source does not have them; their names stay as text
        instruction = PLACE.sub(lambda m: m[0] if m[1] == "dialogue" else m[1], block.instruction)
        keys["instruction"] = instruction
    return keys


def row_lengths(count: int, seed: int = 0) -> list[int]:
    """Return random token counts of rows, prompt and summary together."""
    rng = random.Random(seed)
    lengths: list[int] = []
    while len(lengths) < count:
        tokens = round(MEDIAN * rng.lognormvariate(0, SPREAD))
        if tokens <= LONGEST:
            lengths.append(tokens)
    return lengths


def rows_for(recipe: Recipe, model: Path, place: Path, count: int) -> Path:
    """Return the folder of the recipe's data: `count` random training rows, made once.

    A row's words are drawn from `WORDS`; each is one token of Mistral's.
    """
    folder = place / f"{recipe.name}-{count}"
    if list((folder / "data").glob("*/manifest.json")):
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # left by a call that was interrupted
    source = folder / "source"
    source.mkdir(parents=True)
    data_recipe = on_source(recipe, model, source)
    empty = Example.build("0", "", "", recipe.summarization.instruction)
    template_tokens = TokenCounter(data_recipe).count([empty])[0]
    sizes = {"train": count, "validation": 64, "test": min(count, TEST_ROWS)}
    for split, size in sizes.items():
        rng, lines = random.Random(split), []
        for number, tokens in enumerate(row_lengths(size, size)):
            words = rng.choices(WORDS, k=max(8, tokens - template_tokens))
            cut = max(3, round(SUMMARY_SHARE * len(words)))
            dialogue, summary = f"Ann: {' '.join(words[cut:])}", " ".join(words[:cut])
            row = {"id": f"{split}{number}", "dialogue": dialogue, "summary": summary}
            lines.append(json.dumps(row))
        (source / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")
    with contextlib.chdir(folder):  # the recipe's relative paths start here
        prepare(data_recipe)
    return folder


if __name__ == "__main__":
    run_cli(main)
