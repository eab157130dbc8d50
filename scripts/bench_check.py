"""Check a GPU before measuring on it: its speed, and its kernels against float64.

    python -m scripts.bench_check

Checks separately, in seconds, what training and generation with the recipes depend on: the matrix
product, a memory copy, PyTorch's varlen attention (which `attn_implementation: sdpa` uses for
packed rows on a GPU), Liger's and Axolotl's Triton kernels, and NF4 and 8-bit Adam of bitsandbytes.
Without a GPU, checks that need one are skipped. Exit code 1 if a kernel is wrong or missing.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data_prep.errors import atomic_file, run_cli
from data_prep.options import Options

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Run every check that this machine supports, with one line each; write all after each."""
    parser = Options("scripts.bench_check", __doc__.splitlines()[0], "--output outputs/check.json")
    parser.add_argument("--output", type=Path, help="JSON file for the figures (default: none)")
    output = parser.parse_args().output
    checks: dict[str, Callable[[], dict[str, Any]]] = {"speed": speed, "nf4": nf4}
    if DEVICE == "cuda":
        checks |= {"varlen attention": varlen_attention, "Triton kernels": triton_kernels,
                   "8-bit Adam": adam}  # fmt: skip
    results = {}
    for name, check in checks.items():
        start = time.perf_counter()
        try:
            figures = check()
        except Exception as error:  # a missing package, a compiler's message, a wrong result
            figures = {"failed": f"{type(error).__name__}: {str(error).strip()[:300]}"}
        results[name] = {**figures, "seconds": time.perf_counter() - start}
        words = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
        print(f"{name}: {', '.join(words)}", flush=True)
        if output:
            with atomic_file(output) as file:
                json.dump(results, file, indent=1)
    sys.exit(1 if any("failed" in figures for figures in results.values()) else 0)


def speed() -> dict[str, Any]:
    """Measure operations per second of a bf16 matrix product, and GB/s of a copy (read plus write).

    Numbers are random: on constant ones a GPU flips fewer bits, draws less power and is faster.
    """
    width = 8192 if DEVICE == "cuda" else 512  # an old CPU does 0.3 GFLOP/s in bf16
    a, b = torch.randn(2, width, width, device=DEVICE).to(torch.bfloat16)
    size = 1 << 32 if DEVICE == "cuda" else 1 << 29  # bytes, more than any cache
    source, target = torch.empty(2, size, dtype=torch.uint8, device=DEVICE)
    copy = 2 * size / _least_seconds(lambda: target.copy_(source))
    return {"product": 2 * width**3 / _least_seconds(lambda: a @ b), "copy GB/s": copy / 1e9}


def _least_seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(10):
        start = time.perf_counter()
        work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def varlen_attention() -> dict[str, Any]:
    """Compare packed rows, forward and backward, with masked attention in float64."""
    from torch.nn.attention.varlen import varlen_attn

    torch.manual_seed(0)
    lengths, heads, width = torch.tensor([37, 200, 91, 400], device=DEVICE), 32, 128
    total, longest = int(lengths.sum()), int(lengths.max())
    q, k, v = (_random(total, heads, width).requires_grad_() for _ in range(3))
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    packed = varlen_attn(q, k, v, offsets, offsets, longest, longest, window_size=(-1, 0))
    packed = packed[0] if isinstance(packed, tuple) else packed
    packed.float().square().mean().backward()
    exact = [tensor.detach().double().transpose(0, 1).requires_grad_() for tensor in (q, k, v)]
    attention = torch.nn.functional.scaled_dot_product_attention
    masked = attention(exact[0], exact[1], exact[2], attn_mask=within_rows(lengths))
    masked.square().mean().backward()
    errors = {"output": error_of(packed, masked.transpose(0, 1))}
    for name, tensor, reference in zip(("dq", "dk", "dv"), (q, k, v), exact, strict=True):
        assert tensor.grad is not None and reference.grad is not None
        errors[name] = error_of(tensor.grad, reference.grad.transpose(0, 1))
    return _below(0.03, errors)  # bf16 keeps 8 bits, through a softmax and two products


def within_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the mask of packed rows: a token attends to itself and earlier tokens of its row."""
    row = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), rows)
    position = torch.arange(len(row), device=rows.device)
    return (row[:, None] == row[None]) & (position[:, None] >= position[None])


def triton_kernels() -> dict[str, Any]:
    """Compare Liger's norm and Axolotl's SwiGLU, which the recipes enable, with float64."""
    from axolotl.kernels.swiglu import swiglu_forward
    from liger_kernel.transformers.rms_norm import LigerRMSNorm

    torch.manual_seed(0)
    x = _random(2, 512, 4096)
    norm = LigerRMSNorm(4096, eps=1e-5).to(DEVICE, torch.bfloat16)
    exact = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-5)
    gate, up = _random(2, 512, 14336), _random(2, 512, 14336)
    gated = torch.nn.functional.silu(gate.double()) * up.double()
    errors = {"norm": error_of(norm(x), exact), "swiglu": error_of(swiglu_forward(gate, up), gated)}
    return _below(0.02, errors)


def nf4() -> dict[str, Any]:
    """Quantise weights to NF4 (double quantisation) and back: 16 values lose about a tenth."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    torch.manual_seed(0)
    weight = _random(1024, 1024)
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    error = error_of(dequantize_4bit(packed, state), weight)
    if not 0.05 < error < 0.15:
        raise ValueError(f"weights come back with an error of {error:.3f}")
    return {"error": error}


def adam() -> dict[str, Any]:
    """Check that one step of 8-bit Adam moves a weight by about the learning rate."""
    from bitsandbytes.optim import AdamW8bit

    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4096, 64, device=DEVICE))
    before = weight.detach().clone()
    weight.grad = torch.randn_like(weight)
    AdamW8bit([weight], lr=1e-3).step()
    moved = float((weight - before).abs().mean())
    if not 0.5e-3 < moved < 2e-3:
        raise ValueError(f"a step of 0.001 moved the weights by {moved:.5f}")
    return {"moved": moved}


def error_of(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the relative error: norm of the difference over norm of the exact value."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)


def _below(limit: float, errors: dict[str, float]) -> dict[str, Any]:
    if not max(errors.values()) < limit:  # NaN fails too
        raise ValueError(f"relative errors {errors} are not below {limit}")
    return errors


if __name__ == "__main__":
    run_cli(main)
