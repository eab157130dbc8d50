"""How much memory training takes, by a formula over the model's sizes; nothing is run.

Bytes, for a decoder of Llama's kind with LoRA: s is 2 in bf16 and fp16, 4 in fp32; T the tokens
that one process computes at once, padding included; `attended` how many of them a token's
attention spans.

weights      s a parameter; those of linear layers 0.516 in NF4 with double quantisation, 1 in int8
adapter      16 a parameter: weight, gradient and Adam's two moments in fp32 (10 with 8-bit Adam)
activations  T times, for each layer, what autograd keeps of it:
               8 hidden                   the inputs of two norms, in fp32
               s (2 heads + 2 keys) width queries, keys, values and output of attention; with
                                          `sdpa`, also as varlen, keys and values repeated to one
                                          a head
               s attended + 4 heads       sdpa's mask, which neither varlen nor FlashAttention has,
                                          and each head's normaliser
               s heads attended           `eager` instead: scores after the softmax, and in low
                 (+ 4 heads attended)     precision before they were rounded
               3 s intermediate           gate, its activation, up
               s (inputs + r)             of the adapted layers: what they read, and their first
                                          half's output; layers that read one tensor share it in
                                          fp32, and keep a rounded copy each in low precision
             with Axolotl's LoRA kernels (on a GPU, all three) the last two lines become
               2 s intermediate + 2 s hidden   gate and up, and what attention and MLP read once
             with Liger's norm the first one becomes 4 hidden, of two inputs in low precision
             gradient checkpointing keeps s hidden of a layer, and redoes one at a time
logits       12 T vocabulary: softmax, its gradient and the logits' own, in fp32; none with a loss
             that never holds them (cut cross-entropy, Liger's fused one)

The peak is the end of the forward pass: weights, adapter, activations and logits; with gradient
checkpointing it may be one layer, redone with its gradients, in the place of the logits.
"""

from dataclasses import dataclass
from typing import Any

from data_prep.preflight.model_shape import Shape
from data_prep.preflight.plan import Plan, keeps_to_rows
from data_prep.training.machine import LORA_KERNELS

NF4 = 0.5 + (1 + 4 / 256) / 64  # bytes: a byte per 64 weights, four bytes per 256 of these
FUSED_LOSSES = ("cut_cross_entropy", "liger_fused_linear_cross_entropy")
HOLES_CPU = 0.65  # of activations and logits: blocks that our plugin makes glibc keep; measured
HOLES_GPU = 0.1  # of activations and logits, in PyTorch's cache of blocks; assumed
CONTEXT_GPU = 1 << 30  # CUDA, cuBLAS and their kernels; assumed


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the peak of a step; `redone` is one layer under checkpointing."""

    weights: int
    adapter: int
    activations: int
    logits: int
    redone: int
    overhead: int

    @property
    def tensors(self) -> int:
        """What PyTorch has to hold."""
        return self.weights + self.adapter + self.activations + max(self.logits, self.redone)

    @property
    def total(self) -> int:
        """Tensors and overhead; without the program itself, about 1 GB of a computer's memory."""
        return self.tensors + self.overhead


def estimate_memory(
    config: dict[str, Any], shape: Shape, plan: Plan, size: int, gpu: bool
) -> Memory:
    """Estimate the peak of one process.

    `config`: the recipe's keys; `size`: bytes of a number in the recipe's precision, 2 or 4; `gpu`:
    whether overhead is a GPU's or a CPU's.
    """
    tokens, layers = plan.largest_batch, kept_a_token(config, shape, plan, size, gpu)
    redone = 0
    if config.get("gradient_checkpointing"):
        gradients = size * (3 * shape.intermediate + 2 * shape.hidden)
        redone = tokens * (layers // shape.layers + gradients)
        layers = size * shape.hidden * shape.layers
    activations = tokens * layers
    logits = 0 if any(map(config.get, FUSED_LOSSES)) else 12 * tokens * shape.vocabulary
    moving = activations + max(logits, redone)
    return Memory(
        weights=_weights(config, shape, size),
        adapter=shape.adapter * (10 if "8bit" in str(config.get("optimizer")) else 16),
        activations=activations,
        logits=logits,
        redone=redone,
        overhead=int(CONTEXT_GPU + HOLES_GPU * moving if gpu else HOLES_CPU * moving),
    )


def kept_a_token(
    config: dict[str, Any], shape: Shape, plan: Plan, size: int, gpu: bool = False
) -> int:
    """Bytes that autograd keeps of all layers for each token, without gradient checkpointing."""
    low = size == 2
    fused = gpu and low and all(map(config.get, LORA_KERNELS))
    attention = config.get("attn_implementation")
    repeated = attention in (None, "sdpa")
    keys = shape.heads if repeated else shape.key_heads
    norms = 4 if gpu and low and config.get("liger_rms_norm") else 8
    layer = norms * shape.hidden + size * (2 * shape.heads + 2 * keys) * shape.width
    layer += size * (2 * shape.intermediate + 2 * shape.hidden) if fused else 0
    layer += 0 if fused else 3 * size * shape.intermediate
    if attention == "eager":
        layer += (size + 4 * low) * shape.heads * plan.longest_row
    else:
        masked = repeated and not keeps_to_rows(config, gpu)
        layer += 4 * shape.heads + (size * plan.longest_row if masked else 0)
    if fused:
        return shape.layers * layer
    inputs = shape.inputs if low else shape.shared_inputs
    if config.get("lora_dropout"):
        inputs = shape.inputs + shape.inputs // size  # what is left, and a byte of mask
    return shape.layers * layer + size * (inputs + shape.ranks)


def _weights(config: dict[str, Any], shape: Shape, size: int) -> int:
    linear = NF4 if config.get("load_in_4bit") else 1 if config.get("load_in_8bit") else size
    return int(shape.linear * linear + (shape.parameters - shape.linear) * size)
