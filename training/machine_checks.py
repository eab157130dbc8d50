"""Whether this machine can train a recipe: a GPU where one is needed, its driver, its packages.

Checked before anything is loaded; what Axolotl, PyTorch or Triton would say takes minutes and a
traceback.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")
CPU_INSTEAD: dict[str, Any] = {  # keys that need CUDA, and what a CPU takes in their place
    "attn_implementation": "sdpa",
    **dict.fromkeys(("fp16", "tf32", "liger_rms_norm", "liger_rope", "liger_glu_activation",
                     "liger_fused_linear_cross_entropy", "cut_cross_entropy"), False),
    **dict.fromkeys(LORA_KERNELS, False),
}  # fmt: skip
TRITON = (*LORA_KERNELS, "liger_rms_norm", "liger_rope")
AMPERE = 8  # the first compute capability with bf16, TF32 and FlashAttention 2


def machine_problems(path: Path, config: dict[str, Any]) -> list[str]:
    """What is missing here for the recipe at `path`, a line each; `config` is what it asks for.

    Whether FlashAttention is installed is not asked here: where there is a GPU, Axolotl's schema
    does so (`check_flash_attn_available`), and data_prep.strict passes its words on.
    """
    import torch

    return list((_gpu if torch.cuda.is_available() else _without_gpu)(path, config))


def cpu_overrides(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a recipe that no CPU can follow, and what a CPU takes instead."""
    can = ("sdpa", "eager")
    found = {k: v for k, v in CPU_INSTEAD.items() if config.get(k) and config[k] not in can}
    optimizer = str(config.get("optimizer"))
    if optimizer.startswith("paged_") or "8bit" in optimizer:
        found["optimizer"] = "adamw_torch"
    return found


def old_card_overrides(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a recipe that a card older than Ampere cannot follow, and what it takes instead.

    Nothing else checks that: PyTorch counts bf16 as supported there since it emulates it, and
    Axolotl (0.19) turns packed `sdpa` into varlen attention on any card, which then ends in
    "FlashAttention only supports Ampere GPUs or newer" at the first step. With `sdpa_varlen: false`
    a mask keeps the rows of a pack apart.
    """
    attention = config.get("attn_implementation")
    found: dict[str, Any] = {}
    if config.get("bf16") in (True, "auto"):
        found |= {"bf16": False, "fp16": True}
    if config.get("tf32") is True:
        found["tf32"] = False
    if "flash" in str(attention):
        found["attn_implementation"] = attention = "sdpa"
    packed_sdpa = attention == "sdpa" and config.get("sample_packing")
    if packed_sdpa and config.get("sdpa_varlen") is not False:
        found["sdpa_varlen"] = False
    return found


def _without_gpu(path: Path, config: dict[str, Any]) -> Iterator[str]:
    if config.get("deepspeed"):
        yield (
            f"{path}: deepspeed needs GPUs: accelerate starts none of its processes on a CPU; "
            "leave `--deepspeed` out, or use FSDP2 there (docs/distributed.md)"
        )
    if instead := cpu_overrides(config):
        keys = ", ".join(f"`{key}: {_yaml(config[key])}`" for key in instead)
        yield (
            f"{path}: {keys} need a GPU, and {_why_no_gpu()}; to try it on this CPU add "
            f"`{_flags(instead)}`"
        )


def _why_no_gpu() -> str:
    """What PyTorch says: no CUDA in this build, no driver, an old driver, or no card at all."""
    import torch

    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is built without CUDA: install its CUDA build"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        words = str(error).split(" Please")[0].splitlines()[0].rstrip(".")
        return f"PyTorch {torch.__version__} says: {words}; `nvidia-smi` shows driver and cards"
    return "none is visible; see `nvidia-smi` and CUDA_VISIBLE_DEVICES"


def _gpu(path: Path, config: dict[str, Any]) -> Iterator[str]:
    import torch

    major, minor = torch.cuda.get_device_capability()
    name, built = torch.cuda.get_device_name(), torch.cuda.get_arch_list()
    newest = max((int(arch.split("_")[1].rstrip("af")) for arch in built), default=0)
    if built and major * 10 + minor > newest and not any("compute" in arch for arch in built):
        yield (
            f"{path}: {name} is sm_{major}{minor}, and this PyTorch is built for {', '.join(built)}"
            "; install a build for a newer CUDA"
        )
    if major < AMPERE and (instead := old_card_overrides(config)):
        yield (
            f"{path}: {name} (sm_{major}{minor}) is older than Ampere: it has no bf16, no TF32 and "
            "no FlashAttention, from which PyTorch's varlen attention is made; add "
            f"`{_flags(instead)}`"
        )
    wanted = [key for key in TRITON if config.get(key)]
    if wanted and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        yield (
            f"{path}: {wanted[0]}: Triton compiles it with a C compiler, and none is here; install "
            f"gcc, or set {', '.join(wanted)} to false"
        )


def _flags(settings: dict[str, Any]) -> str:
    return " ".join(f"--{key} {_yaml(value)}" for key, value in settings.items())


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
