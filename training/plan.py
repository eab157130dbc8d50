"""Compute a recipe's steps, tokens and batches with Axolotl's own arithmetic.

from training.plan import count_tokens, plan
print(plan(recipe, count_tokens(recipe, PromptEncoder(recipe))["train"]))
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_prep.errors import UserError
from data_prep.hub import max_positions, model_unavailable
from data_prep.prompt import PromptEncoder, TokenCounter, read_examples
from data_prep.recipe import Recipe, sequence_len
from eval.generate import SHORTEN, beyond_positions

SPLITS = ("train", "validation")
CHUNK = 2000  # rows tokenised at a time; for more, the texts alone take 100s of MB
MAX_DROPPED = 0.2  # share of a split's rows that may be too long; a corpus has some
MAX_CUT = 0.01  # share of the references that may exceed `max_new_tokens`
MIN_LENGTH = 2  # tokens; Axolotl drops shorter rows (the default of `min_sample_len`)
EFFECTS = {
    "drop": "left out",
    "truncate": "cut off at the end, where the summary is",
    "raise": "they end training before its first step",
}


@dataclass(frozen=True)
class Plan:
    """The steps of a training run, and `lines` that describe them.

    A batch is what one process computes in one pass: `micro_batch_size` rows, or with packing that
    many packs of up to `sequence_len` tokens.
    """

    steps: int
    steps_per_epoch: int
    largest_batch: int  # tokens
    lines: list[str]


def plan(recipe: Recipe, lengths: list[int], processes: int = 1) -> Plan:
    """Compute the plan from the token counts of all training rows, including those too long.

    Raises UserError if no row remains to train on.
    """
    config = with_defaults(recipe.config)
    max_length, min_length = config["sequence_len"], config.get("min_sample_len", MIN_LENGTH)
    if config.get("excess_length_strategy") == "truncate":
        lengths = [min(length, max_length) for length in lengths]
    fitting = [length for length in lengths if min_length <= length <= max_length]
    if not fitting:
        raise UserError(
            f"{recipe.path}: no training row fits into sequence_len {max_length}; raise it"
        )
    micro, accumulation = config["micro_batch_size"], config["gradient_accumulation_steps"]
    if config.get("sample_packing"):
        packs = _pack(config, fitting)
        batches, largest_batch, unit = len(packs), max(packs), "packs"
        process_batches = batches // processes  # the incomplete last round is dropped
    else:
        batches, largest_batch, unit = -(-len(fitting) // micro), micro * max(fitting), "rows"
        process_batches = -(-batches // processes)  # without packing, rows repeat to fill it
    steps_per_epoch = max(1, -(-process_batches // accumulation))
    steps = _steps(config, fitting, batches, processes, steps_per_epoch)
    duration = f"num_epochs {config['num_epochs']:g}"
    if config.get("max_steps"):
        duration = f"max_steps {config['max_steps']}"
    lines = [
        f"{len(fitting):,} rows with {sum(fitting):,} tokens fill {batches:,} batches per epoch",
        f"effective batch {micro * accumulation * processes} {unit} = micro_batch_size {micro} x "
        f"gradient_accumulation_steps {accumulation} x {processes} process"
        f"{'es' if processes > 1 else ''}: {sum(fitting) / steps_per_epoch:,.0f} tokens per step",
        f"{steps:,} steps = {steps / steps_per_epoch:.2f} epochs of {steps_per_epoch:,} steps "
        f"({duration})",
    ]
    return Plan(steps, steps_per_epoch, largest_batch, lines)


def with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe's config with Axolotl's defaults for the keys that `plan` needs."""
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from axolotl.utils.schemas.enums import LEGACY_ATTN_FLAG_TO_IMPL

    keys = ("micro_batch_size", "gradient_accumulation_steps", "num_epochs",
             "sample_packing_bin_size", "sample_packing_group_size")  # fmt: skip
    defaults = {key: AxolotlInputConfig.model_fields[key].default for key in keys}
    legacy = [new for old, new in LEGACY_ATTN_FLAG_TO_IMPL.items() if config.get(old)]
    if legacy:
        defaults["attn_implementation"] = legacy[0]
    explicit = {key: value for key, value in config.items() if value is not None}
    return {**defaults, **explicit, "sequence_len": sequence_len(config)}


def _pack(config: dict[str, Any], lengths: list[int]) -> list[int]:
    """Return the tokens of each batch of packs in an epoch, as Axolotl packs them."""
    import torch
    from axolotl.utils.samplers import MultipackBatchSampler
    from axolotl.utils.schemas.enums import ATTN_IMPLS_SUPPORTING_PACKING, attn_impl_base
    from torch.utils.data import RandomSampler

    micro, length = config["micro_batch_size"], config["sequence_len"]
    can_pack = attn_impl_base(config.get("attn_implementation")) in ATTN_IMPLS_SUPPORTING_PACKING
    real = config.get("multipack_real_batches", not can_pack)  # else one pack `micro` times as long
    order = RandomSampler(range(len(lengths)), generator=torch.Generator().manual_seed(0))
    sampler = MultipackBatchSampler(
        order,
        batch_size=micro if real else 1,
        batch_max_len=length if real else micro * length,
        lengths=lengths,
        bin_size=config["sample_packing_bin_size"],
        group_size=config["sample_packing_group_size"],
        sequential=config.get("sample_packing_sequentially", False),
        num_processes=1,
    )
    draws = []
    for epoch in range(sampler.num_count_samples):  # Axolotl also takes its shortest draw
        sampler.set_epoch(epoch)
        draws.append(sampler.generate_batches())
    return [sum(lengths[i] for pack in batch for i in pack) for batch in min(draws, key=len)]


def _steps(
    config: dict[str, Any], lengths: list[int], batches: int, processes: int, steps_per_epoch: int
) -> int:
    """Return the number of optimiser steps of the whole training.

    This repeats `axolotl.utils.trainer.calculate_total_num_steps` (0.19), which cannot be called
    here: it waits for all processes, and preflight runs only in the first.
    """
    if config.get("max_steps"):
        return int(config["max_steps"])
    micro, epochs = config["micro_batch_size"], config["num_epochs"]
    batch = (config.get("batch_size") or micro * config["gradient_accumulation_steps"]) * processes
    if not config.get("sample_packing"):
        return math.ceil(len(lengths) * epochs / batch)
    if share := config.get("sample_packing_eff_est"):  # how full the packs were in an earlier run
        full_batches = 0.99 * sum(lengths) / share / config["sequence_len"] // batch
        steps = int((math.floor(full_batches) - 1) * epochs)
    else:
        steps = math.floor(max(1, batches * micro // batch) * epochs)
        steps -= math.ceil(epochs) if config.get("dataloader_drop_last") else 0
    return steps or math.ceil(epochs * steps_per_epoch)  # if 0, the trainer counts the steps itself


def count_tokens(recipe: Recipe, encoder: PromptEncoder) -> dict[str, list[int]]:
    """Count the tokens of every `train` and `validation` row as training sees it.

    Includes rows that are too long. Raises UserError if the tokenizer or the rows are unreadable.
    """
    try:
        counter = TokenCounter(recipe)
    except (OSError, ValueError) as error:
        raise UserError(model_unavailable(recipe, error)) from error
    counts: dict[str, list[int]] = {}
    tail = 0  # tokens that the template adds after the last turn; Axolotl drops them
    for split in SPLITS:
        rows = read_examples(recipe.data_dir / f"{split}.jsonl")
        chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
        counts[split] = [count for chunk in chunks for count in counter.count(chunk)]
        if split == "train" and rows:
            shortest = min(counts[split])
            ids, _ = encoder.training_ids(rows[counts[split].index(shortest)])
            tail = shortest - len(ids)
    return {split: [count - tail for count in numbers] for split, numbers in counts.items()}


def check_lengths(recipe: Recipe, counts: dict[str, list[int]]) -> tuple[list[str], list[str]]:
    """Return one line per split on its rows that are too long, and a list of problems.

    A problem is too many rows dropped, any row cut, or rows beyond the model's positions. `counts`
    comes from `count_tokens`. Raises UserError if long rows would end the training.
    """
    config, positions = recipe.config, max_positions(recipe.config)
    strategy = config.get("excess_length_strategy") or "drop"
    cuts, capacity = strategy == "truncate", f"the {positions} positions of {config['base_model']}"
    lines, problems = [], []
    for split, lengths in counts.items():
        key, limit = "sequence_len", sequence_len(config)
        if split == "validation" and config.get("eval_sequence_len"):
            key, limit = "eval_sequence_len", config["eval_sequence_len"]
        of_rows, most = f"of {len(lengths):,} rows", int(MAX_DROPPED * len(lengths))
        over, beyond = (sum(n > bound for n in lengths) for bound in (limit, positions or math.inf))
        excess = f"{split}: {over:,} {of_rows} have more than {limit:,} tokens"
        if not over:
            lines.append(f"{split}: none {of_rows} has more than {limit:,} tokens")
        else:
            lines.append(
                f"{excess} (the longest {max(lengths):,}): {EFFECTS[strategy]} "
                f"(excess_length_strategy: {strategy})"
            )
        if over and strategy == "raise":
            raise UserError(f"{recipe.path}: {lines[-1]}")
        enough = max(lengths) if cuts else sorted(lengths)[-most - 1]
        fix = f"set `{key}: {enough}` or more"
        if cuts and over <= most:
            fix = "remove that key, which leaves them out"
        elif positions and enough > positions:
            fix = f"{beyond:,} exceed {capacity} too: {SHORTEN}"
        if cuts and over:
            what = f"{excess}, and `excess_length_strategy: truncate` cuts off their summary; {fix}"
        elif over > most:
            what = f"{excess}, and would be left out; {fix}"
        elif positions and limit > positions and beyond:
            fix = f"set `{key}: {positions}`, which leaves them out" if beyond <= most else SHORTEN
            what = f"{split}: {beyond:,} {of_rows} exceed {capacity}; {fix}"
        else:
            continue
        problems.append(f"{recipe.path}: {what}")
    return lines, problems


def evaluation_problems(recipe: Recipe, encoder: PromptEncoder) -> Iterator[str]:
    """Yield problems: references above `max_new_tokens`, prompts beyond the model's positions."""
    training_rouge = recipe.summarization.training_rouge
    limit = recipe.summarization.decoding.max_new_tokens
    test = read_examples(recipe.data_dir / "test.jsonl")
    validation = read_examples(recipe.data_dir / "validation.jsonl")
    texts = [text for row in [*test, *validation] for text in row.references or [row.summary]]
    ids = encoder.tokenizer(texts, add_special_tokens=False)["input_ids"]
    lengths = [len(tokens) + 1 for tokens in ids]  # plus the end-of-turn token
    if (over := sum(length > limit for length in lengths)) > MAX_CUT * len(lengths):
        yield (
            f"{recipe.path}: {over:,} of {len(lengths):,} references of test and validation have "
            f"more tokens than max_new_tokens, {limit}, allows a summary; set "
            f"`summarization.decoding.max_new_tokens: {max(lengths)}`"
        )
    sampled = validation[: training_rouge.dialogues]
    for rows, new in ((test, limit), (sampled, training_rouge.max_new_tokens or limit)):
        prompt_lengths = [len(encoder.prompt_ids(row)) for row in rows]
        yield from beyond_positions(recipe, rows, prompt_lengths, new)
