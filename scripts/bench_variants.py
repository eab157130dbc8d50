"""What scripts/bench_gpu.py measures, in its order of value, and the model and rows for it.

A training is Axolotl's own launch line on a random model, with rows as long as SAMSum's but without
its text: words drawn at random, lengths of its distribution. That is a log-normal one, cut at
SAMSum's longest row, and fitted to its token counts with Mistral's tokenizer; a test compares it
with the corpus itself.
"""

import json
import os
import random
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.prepare import prepare
from data_prep.prompt import Example, TokenCounter
from data_prep.recipe import Recipe, load_recipe
from training.machine_checks import count_weights, cpu_overrides

ROOT = Path(__file__).resolve().parent.parent
ROWS, TOKENS_A_ROW = 14_637, 216.6  # of SAMSum decontaminated, with Mistral's tokenizer
TEST_ROWS = 819  # of SAMSum; generation is measured on as many
MEDIAN, SPREAD, LONGEST = 185, 0.56, 1200  # tokens of a row; of their logarithm; tokens
SUMMARY = 0.12  # of a row's tokens
WORDS = ["the", "we", "you", "meet", "station", "tomorrow", "at", "seven", "dinner", "sure",
         "maybe", "bring", "photos", "train", "late", "see", "there", "great", "wait",
         "call"]  # fmt: skip
OURS, QLORA, NOTEBOOK = (
    ROOT / f"recipes/mistral_samsum{end}.yml" for end in ("", "_qlora", "_notebook")
)
PLUGIN = "scripts.bench_plugin.BenchPlugin"


@dataclass(frozen=True)
class Variant:
    """A training of a recipe with `overrides` of its keys; or `check` and `generation`.

    `card_gb`: memory of the card that the recipe is for, to which a larger one is limited.
    `otherwise` names the variant to try where this one fails. `least`: seconds that must remain for
    it to start.
    """

    name: str
    what: str
    recipe: Path = OURS
    overrides: dict[str, Any] = field(default_factory=dict)
    card_gb: float | None = None
    otherwise: str | None = None
    steps: int = 1  # times as many
    least: int = 45


NO_KERNELS = dict.fromkeys(
    ("lora_qkv_kernel", "lora_o_kernel", "lora_mlp_kernel", "liger_rms_norm", "liger_rope"), False
)
MASK = {"sdpa_varlen": False}  # Axolotl then masks a whole pack, and does not call varlen_attn
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("check", "speed of the card, and its kernels against float64", least=15),
        Variant("ours", "mistral_samsum.yml as it is", card_gb=40, otherwise="ours uncapped"),
        # the notebook's paged optimizer takes CUDA managed memory, which can hang a GPU that others
        # use too; the arithmetic is the same
        Variant("notebook", "mistral_samsum_notebook.yml, its optimizer not paged", NOTEBOOK,
                {"optimizer": "adamw_torch"}, card_gb=40, steps=2),  # a step is three short rows
        Variant("generation", f"{TEST_ROWS} test dialogues, ours and one at a time"),
        Variant("qlora", "mistral_samsum_qlora.yml", QLORA, card_gb=16, otherwise="qlora uncapped"),
        Variant("checkpointing", "layers computed twice",
                overrides={"gradient_checkpointing": True}),
        Variant("no kernels", "neither LoRA's nor Liger's", overrides=NO_KERNELS),
        Variant("mask", "a mask over the pack instead of varlen attention", overrides=MASK),
        Variant("no packing", "8 padded rows of similar length instead of a pack",
                overrides={"sample_packing": False, "eval_sample_packing": False,
                           "group_by_length": True, "micro_batch_size": 8}),
        Variant("ours uncapped", "mistral_samsum.yml on the whole card", otherwise="plain"),
        Variant("plain", "no kernels, a mask, the whole card", overrides={**NO_KERNELS, **MASK}),
        Variant("qlora uncapped", "mistral_samsum_qlora.yml on the whole card", QLORA),
    )
}  # fmt: skip
FALLBACKS = {variant.otherwise for variant in VARIANTS.values()}


# ---- model and rows ----


def row_lengths(count: int, seed: int = 0) -> list[int]:
    """Tokens of each row, prompt and summary together."""
    rng = random.Random(seed)
    found: list[int] = []
    while len(found) < count:
        tokens = round(MEDIAN * rng.lognormvariate(0, SPREAD))
        if tokens <= LONGEST:
            found.append(tokens)
    return found


def rows_for(recipe: Recipe, model: Path, place: Path, count: int) -> Path:
    """The folder in which the recipe's data are: `count` random training rows, made once.

    A row's words are random ones of `WORDS`, each of which is a token of Mistral's.
    """
    folder = place / f"{recipe.name}-{count}"
    if list((folder / "data").glob("*/manifest.json")):
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was stopped while it made them
    source = folder / "source"
    source.mkdir(parents=True)
    block = recipe.summarization.model_copy(update={"source": str(source), "train_rows": "all"})
    config = {**recipe.config, "base_model": str(model)}
    random_rows = replace(recipe, config=config, summarization=block)
    fixed = TokenCounter(random_rows).count([Example.build("0", "", "", block.instruction)])[0]
    sizes = {"train": count, "validation": 64, "test": min(count, TEST_ROWS)}
    for split, size in sizes.items():
        rng, lines = random.Random(split), []
        for number, tokens in enumerate(row_lengths(size, size)):
            words = rng.choices(WORDS, k=max(8, tokens - fixed))
            cut = max(3, round(SUMMARY * len(words)))
            dialogue, summary = f"Ann: {' '.join(words[cut:])}", " ".join(words[:cut])
            row = {"id": f"{split}{number}", "dialogue": dialogue, "summary": summary}
            lines.append(json.dumps(row))
        (source / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")
    before = Path.cwd()
    os.chdir(folder)  # so that the recipe's relative paths are in there
    try:
        prepare(random_rows)
    finally:
        os.chdir(before)
    return folder


# ---- commands ----


def training(
    variant: Variant, model: Path, folder: Path, also: dict[str, Any]
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe as the variant trains it on the rows of `folder`, and the keys that differ.

    `also` overrides keys of every variant; what a CPU cannot do comes on top.
    """
    import torch

    recipe = load_recipe(variant.recipe)
    changed = {**also, **variant.overrides}
    if not torch.cuda.is_available():
        changed |= cpu_overrides({**recipe.config, **changed})
        changed |= {"bf16": False} if recipe.config.get("bf16") else {}
    return replace(recipe, config={**recipe.config, **changed, "base_model": str(model)}), changed


def training_command(
    recipe: Recipe, changed: dict[str, Any], folder: Path, name: str, steps: int, gpus: int
) -> list[str]:
    """Axolotl's launch line, all of whose flags are those of the recipe's keys."""
    bin_dir, config = Path(sys.executable).parent, recipe.config
    launcher = [str(bin_dir / "accelerate"), "launch", "--num_processes", "1"]
    if gpus > 1:
        launcher = [str(bin_dir / "torchrun"), "--nproc-per-node", str(gpus)]
    flags = {
        "base_model": config["base_model"],
        "summarization__source": str(folder / "source"),
        "summarization__train_rows": "all",
        "plugins": json.dumps([*config["plugins"], PLUGIN]),
        "max_steps": steps, "eval_strategy": "no", "save_strategy": "no", "logging_steps": 1,
        "output_dir": f"outputs/{name}", **changed,
    }  # fmt: skip
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    return [*launcher, "-m", "axolotl.cli.train", str(recipe.path), *words]


def operations_a_token(recipe: Recipe) -> float:
    """Floating-point operations of training for each token, attention aside.

    Twice the weights forward and twice backward, and of the adapter once more for its gradients;
    checkpointing computes the layers again.
    """
    weights = count_weights(recipe)
    operations = 4 * (weights.linear + weights.head) + 6 * weights.adapter
    if recipe.config.get("gradient_checkpointing"):
        operations += 2 * (weights.linear + weights.adapter)
    return operations
