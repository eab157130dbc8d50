"""How long training takes: arithmetic of all steps over the speed of the machine.

Operations a token, for LoRA: 2 a weight in the forward pass and 2 in the backward pass, where
frozen weights need no gradient; 6 a weight of the adapter; 12 for each token that attention spans,
each layer and each number of its heads. Gradient checkpointing does the layers forward once more.
"""

import time
from dataclasses import dataclass
from typing import Any

from data_prep.preflight.model_shape import Shape
from data_prep.preflight.plan import Plan

A100 = 312e12  # operations a second in bf16, from its data sheet
EFFICIENCY_GPU = 0.4  # of a matrix product's speed, over a whole step; assumed
EFFICIENCY_CPU = {2: 0.45, 4: 0.8}  # by bytes of a number; measured, see scripts/check_estimate.py
SIZE_CPU, SIZE_GPU = 512, 8192  # of the matrices whose product is timed
ROUNDS = 20


@dataclass(frozen=True)
class Rate:
    """Operations a second of a matrix product, and the share of it that training reaches."""

    product: float
    efficiency: float
    source: str

    @property
    def training(self) -> float:
        """Operations a second over a whole step."""
        return self.product * self.efficiency


def number_size(config: dict[str, Any], gpu: bool) -> int:
    """Bytes of a number in the recipe's precision: 2 or 4."""
    from data_prep.cpu import bf16_is_faster

    if config.get("bf16") == "auto":
        return 2 if gpu or bf16_is_faster() else 4
    return 2 if config.get("bf16") or config.get("fp16") else 4


def rate_of(size: int, gpu: bool) -> Rate:
    """Time a matrix product here; where the recipe wants a GPU and none is here, an A100's."""
    import torch

    if not gpu:
        return Rate(_measure("cpu", size), EFFICIENCY_CPU[size], "timed on this CPU")
    if not torch.cuda.is_available():
        return Rate(A100, EFFICIENCY_GPU, "of an A100, by its data sheet")
    name = torch.cuda.get_device_name()
    return Rate(_measure("cuda", size), EFFICIENCY_GPU, f"timed on this {name}")


def operations_a_token(config: dict[str, Any], shape: Shape, plan: Plan) -> float:
    """Floating-point operations of training for each token, padding counted as tokens."""
    attention = 4 * plan.attended * shape.heads * shape.width * shape.layers
    operations = 4 * shape.multiplied + 6 * shape.adapter + 3 * attention
    if config.get("gradient_checkpointing"):
        operations += 2 * (shape.linear + shape.adapter) + attention
    return operations


def _measure(device: str, size: int) -> float:
    """Operations a second of the quickest of some matrix products.

    Of random numbers: on constant ones a GPU switches fewer bits, draws less power and is faster.
    """
    import torch

    width = SIZE_GPU if device == "cuda" else SIZE_CPU
    dtype = torch.bfloat16 if size == 2 else torch.float32
    generator = torch.Generator(device).manual_seed(0)  # the training's own numbers stay theirs
    a, b = torch.randn(2, width, width, dtype=dtype, device=device, generator=generator)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * width**3 / min(times)
