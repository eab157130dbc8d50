"""Memory of a training: the least that it needs, what it took, what to change when it ran out.

The least is arithmetic. What autograd keeps for the backward pass comes on top and is not guessed:
it depends on kernels and attention, so that it is measured in the first steps of the training.
"""

import re
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from data_prep.console import Bar, say
from data_prep.hub import empty_model
from data_prep.machine import usage
from data_prep.recipe import Recipe

NF4 = 0.5 + (1 + 4 / 256) / 64  # bytes a weight: and a byte for 64 of them, four for 256 of these
# Losses that never hold a float32 copy of all logits.
FRUGAL_LOSSES = ("cut_cross_entropy", "chunked_cross_entropy", "liger_cross_entropy",
                 "liger_fused_linear_cross_entropy")  # fmt: skip
LOGIT = 8  # bytes: transformers' loss keeps its log-softmax and makes a gradient, both in float32
# Keys under which a process does not hold all weights, so that no bound is known.
PLACED_ELSEWHERE = ("deepspeed", "fsdp", "fsdp_config", "device_map", "layer_offloading",
                    "tensor_parallel_size", "ple_cpu_offload", "quantize_moe_experts")  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Counts of a base model's weights and of its adapter's."""

    parameters: int  # all of the base model
    linear: int  # those in linear layers but the output layer: what quantisation shrinks
    head: int  # those of the output layer
    vocabulary: int
    adapter: int  # those that are trained


def count_weights(recipe: Recipe) -> Weights:
    """Build the model and its adapter without memory (on PyTorch's `meta` device), and count.

    Raises UserError where the model's configuration cannot be read.
    """
    import torch
    from axolotl.loaders.adapter import load_lora
    from axolotl.utils.dict import DictDefault
    from peft import get_peft_model

    model = empty_model(recipe)
    head = model.get_output_embeddings()
    parameters = model.num_parameters()
    linear = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    with_dropout = {"lora_dropout": 0.0, **recipe.config}  # Axolotl's default, which PEFT needs
    settings: Any = load_lora(model, DictDefault(with_dropout), config_only=True)[1]
    settings.init_lora_weights = False  # some of PEFT's ways to begin compute with the base weights
    with torch.device("meta"):
        adapter, _ = get_peft_model(model, settings).get_nb_trainable_parameters()
    return Weights(parameters, linear, head.weight.numel(), head.weight.shape[0], adapter)


@dataclass(frozen=True)
class LeastMemory:
    """Bytes that a process holds at the peak of a step whatever the kernels, in lines too."""

    total: float
    lines: list[str]


def least_memory(recipe: Recipe, largest_batch: int) -> LeastMemory | None:
    """The least memory of a training process; None where no bound is known.

    `largest_batch`: tokens that a process computes in one pass. Raises UserError where the model's
    configuration cannot be read.
    """
    config = recipe.config
    lora = config.get("adapter") in ("lora", "qlora")
    if not lora or any(config.get(key) not in (None, False, 1) for key in PLACED_ELSEWHERE):
        return None
    weights = count_weights(recipe)
    number = 2 if config.get("bf16") or config.get("fp16") else 4
    each = NF4 if config.get("load_in_4bit") else 1 if config.get("load_in_8bit") else number
    base = weights.linear * each + (weights.parameters - weights.linear) * number
    optimizer, trained = str(config.get("optimizer")), 8  # bytes: float32 weight and gradient
    if "adam" in optimizer and "paged" not in optimizer:  # those may be in the host's memory
        trained += 2 if "8bit" in optimizer else 0 if "4bit" in optimizer else 8
    logit = 0 if any(map(config.get, FRUGAL_LOSSES)) else LOGIT
    parts = {
        "weights": base,
        "adapter": weights.adapter * trained,
        "logits": largest_batch * weights.vocabulary * logit,
    }
    total = sum(parts.values())
    sums = " + ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    lines = [
        f"at least {total / 1e9:.1f} GB a process = {sums}; training measures the rest",
        f"weights {weights.parameters:,} x {base / weights.parameters:.2g} bytes; adapter "
        f"{weights.adapter:,} x {trained} bytes; logits {largest_batch:,} tokens x "
        f"{weights.vocabulary:,} x {logit} bytes",
    ]
    return LeastMemory(total, lines)


def too_small(recipe: Recipe, least: LeastMemory, gpu: str, size: float) -> str:
    """What to say of a GPU of `size` bytes, fewer than the least."""
    return (
        f"{recipe.path}: needs at least {least.total / 1e9:.1f} GB on a GPU, and {gpu} has "
        f"{size / 1e9:.1f} GB; {what_to_change(recipe.config)}"
    )


def out_of_memory(recipe: Recipe, error: BaseException) -> str:
    """One line for memory that ran out, with what to change."""
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    wanted = f" ({asked[1]} more were wanted)" if asked else ""
    return f"{recipe.path}: memory ran out{wanted}; {what_to_change(recipe.config)}"


def what_to_change(config: dict[str, Any]) -> str:
    """The three cheapest changes that save memory and that the recipe does not have already."""
    found = []
    micro = int(config.get("micro_batch_size") or 1)
    accumulation = int(config.get("gradient_accumulation_steps") or 1)
    if micro > 1:
        factor = 2 if micro % 2 == 0 else micro
        found.append(
            f"`micro_batch_size: {micro // factor}` with `gradient_accumulation_steps: "
            f"{accumulation * factor}` (the same batch)"
        )
    if not config.get("gradient_checkpointing"):
        found.append("`gradient_checkpointing: true` (slower by about a third)")
    if not config.get("load_in_4bit"):
        found.append("`adapter: qlora` with `load_in_4bit: true` (a quarter of the weights' bytes)")
    length = int(config.get("sequence_len") or 512)
    found.append(f"`sequence_len: {length // 2}` (preflight says how many rows are then too long)")
    if "8bit" not in str(config.get("optimizer")):
        found.append("`optimizer: adamw_8bit` (10 bytes an adapter weight instead of 16)")
    found.append("a smaller `lora_r`")
    steps = "; ".join(f"{number}. {text}" for number, text in enumerate(found[:3], 1))
    return f"change, in this order, and start again: {steps}"


class Progress(TrainerCallback):
    """Shows how far a training is, how long the rest takes, its losses and its peak memory."""

    def __init__(self, bar: Bar | None = None) -> None:
        """`bar`: the one that is shown until the first step."""
        self.bar = bar
        self.validation: Bar | None = None
        self.losses: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer calls it once everything is loaded."""
        if self.bar:
            self.bar.__exit__()
        steps, first = state.max_steps, state.is_world_process_zero
        self.bar = Bar("training", steps, "steps", state.global_step, first).__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer calls it after each optimiser step."""
        if self.bar:
            self.bar.step(note=self._measured())

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer calls it with the losses."""
        for key, words in (("loss", "loss"), ("eval_loss", "validation")):
            if key in kwargs["logs"]:
                self.losses[key] = f"{words} {float(kwargs['logs'][key]):.3f}"

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer calls it after each batch of an evaluation."""
        if not self.validation:
            batches, first = len(kwargs["eval_dataloader"]), state.is_world_process_zero
            self.validation = Bar("validating", batches, "batches", shown=first).__enter__()
        self.validation.step()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer calls it after an evaluation."""
        if self.validation:
            self.validation.__exit__()
            self.validation = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer calls it after the last step; the adapter is saved after it."""
        if self.bar:
            self.bar.__exit__()
            self.bar.step(0, self._measured())
            if state.is_world_process_zero:
                say(f"trained {self.bar.state()}: {args.output_dir}")

    def _measured(self) -> str:
        return ", ".join([*self.losses.values(), f"peak {usage().peak_memory_gb:.1f} GB"])
