"""The weights themselves: those of the merged folder against base + adapter, tensor by tensor."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

BLOCK = 1 << 24  # weights that are compared at a time: whole matrices of a 7B model took 7 GB more


class Weights(NamedTuple):
    """How far merged weights lie from base + adapter.

    `steps`: the greatest difference, in rounding steps of the type in which they are stored, of
    |base| + |change|; `worst`: in which tensor; `changed`: how many tensors the adapter changes,
    `expected`: how many it holds weights for; `dtype`: how they are stored.
    """

    steps: float
    worst: str
    changed: int
    expected: int
    dtype: str


@torch.inference_mode()
def compare_weights(model: Any, folder: Path) -> Weights | None:
    """Compare `model`, the adapter beside its weights, with the merged folder's files.

    None for DoRA, whose change is not a sum.
    """
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    if any(getattr(layer, "use_dora", {}).get("default") for layer in layers.values()):
        return None
    plain = dict(model.named_parameters())
    steps, worst, changed, dtype = 0.0, "", 0, ""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            keys = file.keys()
            for key in keys:
                merged = file.get_tensor(key)
                dtype = str(merged.dtype).removeprefix("torch.")
                apart, is_changed = _apart(merged, key, layers, plain)
                changed += is_changed
                if not apart <= steps:  # NaN too
                    steps, worst = apart, key
    return Weights(steps, worst, changed, len(layers), dtype)


def _apart(
    merged: torch.Tensor, key: str, layers: dict[str, Any], plain: dict[str, Any]
) -> tuple[float, bool]:
    """Rounding steps between one merged tensor and what it should be; whether it is changed."""
    module, _, kind = key.rpartition(".")
    layer = layers.get(module) if kind == "weight" else None
    names = (key, f"{module}.base_layer.{kind}", f"{module}.modules_to_save.default.{kind}")
    found = [plain[name] for name in names if name in plain]
    if not found or found[-1].shape != merged.shape:
        return float("inf"), False
    base = found[-1]
    eps = max(torch.finfo(merged.dtype).eps, torch.finfo(base.dtype).eps)
    change = layer.get_delta_weight("default") if layer else torch.zeros_like(base)
    blocks = [t.reshape(-1).to(base.device).split(BLOCK) for t in (base, change, merged)]
    sizes = [
        float((b.float().abs() + c.float().abs()).sum()) for b, c in zip(*blocks[:2], strict=True)
    ]
    least = sum(sizes) / base.numel()  # the tensor's mean, for what cancels out
    steps = []
    for of_base, of_change, of_merged in zip(*blocks, strict=True):
        apart = (of_merged.float() - (of_base.float() + of_change.float())).abs()
        size = of_base.float().abs() + of_change.float().abs()
        steps.append((apart / (eps * size.clamp_min(least) + 1e-30)).max())
    return float(torch.stack(steps).max()), layer is not None  # NaN where one is


@torch.inference_mode()
def round_to_nf4(model: Any, config: dict[str, Any]) -> None:
    """Round weights to 4 bits and back, as Axolotl's merge does: every matrix, embeddings too."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    settings = config.get("bnb_config_kwargs") or {}
    twice = settings.get("bnb_4bit_use_double_quant", not settings)
    for weight in model.parameters():  # a tied one once
        if weight.ndim < 2:
            continue
        flat = weight.detach().reshape(-1).float().contiguous()
        rounded, state = quantize_4bit(
            flat,
            quant_type="nf4",
            compress_statistics=bool(twice),
            **{k: v for k, v in settings.items() if k == "blocksize"},
        )
        back = dequantize_4bit(rounded, state, quant_type="nf4")
        weight.copy_(back.reshape(weight.shape).to(weight.dtype))
