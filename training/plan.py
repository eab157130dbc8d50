"""Steps, tokens and batches that a recipe comes to, by Axolotl's own arithmetic.

from training.plan import plan
print(plan(recipe, lengths(recipe)["train"]))
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from data_prep.errors import UserError
from data_prep.hub import model_unavailable
from data_prep.prompt import Example, PromptEncoder, TokenCounter, read_examples
from data_prep.recipe import Recipe, sequence_len
from training.machine_checks import cpu_overrides

SPLITS = ("train", "validation")
CHUNK = 2000  # rows that are tokenised at a time
FATES = {
    "drop": "left out",
    "truncate": "cut at their end, where the summary is",
    "raise": "they end training before its first step",
}


@dataclass(frozen=True)
class Overlong:
    """How many rows of a split have more than `limit` tokens, and what Axolotl does with them."""

    split: str
    rows: int
    of: int
    longest: int
    limit: int
    strategy: Literal["drop", "truncate", "raise"]

    def __str__(self) -> str:
        """One line for a person."""
        if not self.rows:
            return f"{self.split}: none of {self.of:,} rows has more than {self.limit:,} tokens"
        return (
            f"{self.split}: {self.rows:,} of {self.of:,} rows have more than {self.limit:,} tokens "
            f"(the longest {self.longest:,}): {FATES[self.strategy]} "
            f"(excess_length_strategy: {self.strategy})"
        )


SHORTEST = 2  # tokens; Axolotl leaves out what is shorter
MULTIPLE = 64  # Axolotl pads a batch to a multiple of this


@dataclass(frozen=True)
class Plan:
    """What training does; an epoch's `rows` and `tokens` are without those that are left out.

    A batch is what one process computes at once: `micro_batch_size` rows, padded to the longest, or
    with packing that many packs of `sequence_len` tokens. `attended` is how many tokens a token's
    attention spans, padding included, on average over what is computed.
    """

    rows: int
    tokens: int
    packed: bool
    effective_batch: int  # rows, or packs, of an optimiser step, over all processes
    batches: int  # an epoch, over all processes
    steps_per_epoch: int
    steps: int
    epochs: float
    padding: float  # share of what is computed
    largest_batch: int  # tokens of one process at once, padding included
    longest_row: int  # tokens that its attention spans
    attended: float

    @property
    def tokens_per_step(self) -> float:
        """Tokens of an optimiser step over all processes, without padding."""
        return self.tokens / self.steps_per_epoch

    @property
    def computed_tokens(self) -> float:
        """Tokens of the whole training over all processes, padding included."""
        return self.epochs * self.tokens / (1 - self.padding)


def plan(recipe: Recipe, lengths: list[int], processes: int = 1) -> Plan:
    """Compute the plan from the token counts of all training rows, over-long ones included.

    Raises UserError where no row is left to train on.
    """
    config = with_defaults(recipe.config)
    kept = _kept(config, lengths)
    if not kept:
        limit = config["sequence_len"]
        raise UserError(f"{recipe.path}: no training row fits into sequence_len {limit}; raise it")
    micro, accumulation = config["micro_batch_size"], config["gradient_accumulation_steps"]
    packed = bool(config.get("sample_packing"))
    batches = _packs(config, kept) if packed else _padded(config, kept)
    # a last batch that not every process would get: packs are left out, rows repeated
    of_a_process = len(batches) // processes if packed else -(-len(batches) // processes)
    steps_per_epoch = max(1, -(-of_a_process // accumulation))
    steps = _steps(config, kept, len(batches), processes, steps_per_epoch)
    computed = sum(map(sum, batches))
    return Plan(
        rows=len(kept),
        tokens=sum(kept),
        packed=packed,
        effective_batch=micro * accumulation * processes,
        batches=len(batches),
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        epochs=steps / steps_per_epoch,
        padding=1 - sum(kept) / computed,
        largest_batch=max(map(sum, batches)),
        longest_row=max(map(max, batches)),
        attended=sum(row * row for batch in batches for row in batch) / computed,
    )


def with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """The recipe's keys with Axolotl's defaults for those that the arithmetic needs."""
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from axolotl.utils.schemas.enums import LEGACY_ATTN_FLAG_TO_IMPL

    names = ("micro_batch_size", "gradient_accumulation_steps", "num_epochs",
             "sample_packing_bin_size", "sample_packing_group_size")  # fmt: skip
    defaults = {name: AxolotlInputConfig.model_fields[name].default for name in names}
    legacy = [new for old, new in LEGACY_ATTN_FLAG_TO_IMPL.items() if config.get(old)]
    if legacy:
        defaults["attn_implementation"] = legacy[0]
    given = {key: value for key, value in config.items() if value is not None}
    return {**defaults, **given, "sequence_len": sequence_len(config)}


def for_gpu(config: dict[str, Any]) -> bool:
    """Whether training will run on a GPU: one is here, or the recipe asks for what only it has."""
    import torch

    wants = any(map(config.get, ("load_in_4bit", "load_in_8bit", "deepspeed")))
    return torch.cuda.is_available() or wants or bool(cpu_overrides(config))


def keeps_to_rows(config: dict[str, Any], gpu: bool) -> bool:
    """Whether attention spans the rows of a pack one by one, and not the whole pack with a mask.

    FlashAttention keeps to rows, and so does `sdpa` where Axolotl turns it into PyTorch's varlen
    attention (`PatchManager._apply_sdpa_varlen_patch`): on a GPU, in low precision, for models
    without a sliding window and with heads of up to 256 numbers, which are not looked at here.
    """
    from axolotl.monkeypatch.attention.sdpa_varlen import varlen_available
    from axolotl.utils.schemas.enums import ATTN_IMPLS_SUPPORTING_PACKING, attn_impl_base

    if not config.get("sample_packing"):
        return False
    attention = attn_impl_base(config.get("attn_implementation"))
    if attention == "sdpa":
        wanted = gpu and config.get("sdpa_varlen") is not False
        low = config.get("bf16") or config.get("fp16")
        return bool(wanted and low and varlen_available())
    return attention in ATTN_IMPLS_SUPPORTING_PACKING


def _kept(config: dict[str, Any], lengths: list[int]) -> list[int]:
    """Lengths of the rows that training sees, in order."""
    longest, shortest = config["sequence_len"], config.get("min_sample_len", SHORTEST)
    if config.get("excess_length_strategy") == "truncate":
        return [min(n, longest) for n in lengths if n >= shortest]
    return [n for n in lengths if shortest <= n <= longest]


def _padded(config: dict[str, Any], kept: list[int]) -> list[list[int]]:
    """The rows of each batch of an epoch, all as long as the longest, as the collator pads them."""
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    micro, generator = config["micro_batch_size"], torch.Generator().manual_seed(0)
    if config.get("group_by_length"):
        grouped = micro * config["gradient_accumulation_steps"]
        order = get_length_grouped_indices(kept, grouped, generator=generator)
    else:
        order = torch.randperm(len(kept), generator=generator).tolist()
    batches = [[kept[n] for n in order[i : i + micro]] for i in range(0, len(order), micro)]
    if config.get("dataloader_drop_last") and len(batches) > 1 and len(batches[-1]) < micro:
        batches.pop()
    return [[_pad(config, max(batch))] * len(batch) for batch in batches]


def _packs(config: dict[str, Any], kept: list[int]) -> list[list[int]]:
    """What attention spans in each batch of packs of an epoch, by Axolotl's own packing."""
    import torch
    from axolotl.utils.samplers import MultipackBatchSampler
    from axolotl.utils.schemas.enums import ATTN_IMPLS_SUPPORTING_PACKING, attn_impl_base
    from torch.utils.data import RandomSampler

    micro, length = config["micro_batch_size"], config["sequence_len"]
    by_rows = keeps_to_rows(config, for_gpu(config))
    one_long = attn_impl_base(config.get("attn_implementation")) in ATTN_IMPLS_SUPPORTING_PACKING
    real = config.get("multipack_real_batches", not one_long)  # or one pack, micro times as long
    order = RandomSampler(range(len(kept)), generator=torch.Generator().manual_seed(0))
    sampler = MultipackBatchSampler(
        order,
        batch_size=micro if real else 1,
        batch_max_len=length if real else micro * length,
        lengths=kept,
        bin_size=config["sample_packing_bin_size"],
        group_size=config["sample_packing_group_size"],
        sequential=config.get("sample_packing_sequentially", False),
        num_processes=1,
    )
    draws = []
    for epoch in range(sampler.num_count_samples):  # Axolotl takes the shortest of its draws too
        sampler.set_epoch(epoch)
        draws.append(sampler.generate_batches())
    shortest = min(draws, key=len)
    return [[n for pack in batch for n in _in_pack(config, [kept[i] for i in pack], by_rows)]
            for batch in shortest]  # fmt: skip


def _in_pack(config: dict[str, Any], rows: list[int], by_rows: bool) -> list[int]:
    whole = _pad({"pad_to_sequence_len": True, **config}, sum(rows))
    if not by_rows:
        return [whole]
    return [*rows, whole - sum(rows)] if whole > sum(rows) else rows


def _pad(config: dict[str, Any], longest: int) -> int:
    multiple = config.get("pad_to_multiple_of") or MULTIPLE
    if config.get("pad_to_sequence_len"):
        multiple *= math.ceil(config["sequence_len"] / multiple)
    elif config.get("pad_to_sequence_len") is False:
        multiple = 1
    return math.ceil(longest / multiple) * multiple


def _steps(
    config: dict[str, Any], kept: list[int], batches: int, processes: int, steps_per_epoch: int
) -> int:
    """Optimiser steps of the whole training; Axolotl's count overrules the trainer's own."""
    if config.get("max_steps"):
        return int(config["max_steps"])
    micro, epochs = config["micro_batch_size"], config["num_epochs"]
    batch = (config.get("batch_size") or micro * config["gradient_accumulation_steps"]) * processes
    if not config.get("sample_packing"):
        return math.ceil(len(kept) * epochs / batch)
    if share := config.get("sample_packing_eff_est"):  # how full packs are, told by an earlier run
        full = 0.99 * sum(kept) / share / config["sequence_len"] // batch
        steps = int((math.floor(full) - 1) * epochs)
    else:
        steps = math.floor(max(1, batches * micro // batch) * epochs)
        steps -= math.ceil(epochs) if config.get("dataloader_drop_last") else 0
    return steps or math.ceil(epochs * steps_per_epoch)  # with none the trainer counts for itself


def lengths(recipe: Recipe) -> dict[str, list[int]]:
    """Tokens of every row of `train` and `validation`, as training sees them, over-long ones too.

    Raises UserError where the tokenizer or the rows cannot be had.
    """
    try:
        counter = TokenCounter(recipe)
    except (OSError, ValueError) as error:
        raise UserError(model_unavailable(recipe, error)) from error
    counts: dict[str, list[int]] = {}
    for split in SPLITS:
        rows = read_examples(recipe.data_dir / f"{split}.jsonl")
        chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
        counts[split] = [count for chunk in chunks for count in counter.count(chunk)]
        if split == "train" and rows:
            tail = _template_tail(recipe, rows, counts[split])
    return {split: [count - tail for count in numbers] for split, numbers in counts.items()}


def overlong(recipe: Recipe, counts: dict[str, list[int]]) -> list[Overlong]:
    """The over-long rows of each split, of the result of `lengths`."""
    config = recipe.config
    limit = sequence_len(config)
    limits = {"train": limit, "validation": config.get("eval_sequence_len") or limit}
    strategy: Any = config.get("excess_length_strategy") or "drop"
    return [
        Overlong(split, sum(n > limits[split] for n in numbers), len(numbers),
                 max(numbers, default=0), limits[split], strategy)
        for split, numbers in counts.items()
    ]  # fmt: skip


def _template_tail(recipe: Recipe, rows: list[Example], counts: list[int]) -> int:
    """Tokens that a template writes after the last turn; Axolotl leaves them out."""
    shortest = counts.index(min(counts))
    ids, _ = PromptEncoder(recipe).training_ids(rows[shortest])
    return counts[shortest] - len(ids)
