"""Check whether this machine can train a recipe: GPU, driver, packages, memory.

The checks run before anything is loaded. Without them, Axolotl, PyTorch or Triton would fail with a
traceback after minutes.
"""

import os
import re
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.hub import empty_model
from data_prep.recipe import Recipe

LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")
CPU_VALUES: dict[str, Any] = {  # keys that need CUDA, and their values on a CPU
    "attn_implementation": "sdpa",
    **dict.fromkeys(("fp16", "tf32", "liger_rms_norm", "liger_rope", "liger_glu_activation",
                     "liger_fused_linear_cross_entropy", "cut_cross_entropy"), False),
    **dict.fromkeys(LORA_KERNELS, False),
}  # fmt: skip
TRITON_KEYS = [key for key in CPU_VALUES if key.startswith(("lora", "liger", "cut"))]
AMPERE = 8  # the first compute capability with bf16, TF32 and FlashAttention 2


def cpu_overrides(config: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe's keys that do not work on a CPU, with values that do."""
    usable = ("sdpa", "eager")
    overrides = {k: v for k, v in CPU_VALUES.items() if config.get(k) and config[k] not in usable}
    optimizer = str(config.get("optimizer"))
    if optimizer.startswith("paged_") or "8bit" in optimizer:
        overrides["optimizer"] = "adamw_torch"
    return overrides


def old_card_overrides(config: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe's keys that do not work on a card older than Ampere, with values that do.

    Nothing else checks this: PyTorch reports bf16 as supported there because it emulates it, and
    Axolotl (0.19) turns packed `sdpa` into varlen attention on any card, which then fails with
    "FlashAttention only supports Ampere GPUs or newer" at the first step. With `sdpa_varlen: false`
    a mask separates the rows of a pack.
    """
    attention = config.get("attn_implementation")
    overrides: dict[str, Any] = {}
    if config.get("bf16") in (True, "auto"):
        overrides |= {"bf16": False, "fp16": True}
    if config.get("tf32") is True:
        overrides["tf32"] = False
    if "flash" in str(attention):
        overrides["attn_implementation"] = attention = "sdpa"
    packed_sdpa = attention == "sdpa" and config.get("sample_packing")
    if packed_sdpa and config.get("sdpa_varlen") is not False:
        overrides["sdpa_varlen"] = False
    return overrides


def machine_problems(path: Path, config: dict[str, Any]) -> list[str]:
    """Return what this machine lacks for the recipe at `path`, one line each.

    `config` is the recipe's content. Whether FlashAttention is installed is not checked here: on a
    GPU, Axolotl's schema checks it (`check_flash_attn_available`), and data_prep.recipe reports it.
    """
    import torch

    problems: list[str] = []
    if not torch.cuda.is_available():
        if config.get("deepspeed"):
            problems.append(
                f"{path}: deepspeed needs GPUs: accelerate does not start its processes on a CPU; "
                "leave `--deepspeed` out, or use FSDP2 there (docs/distributed.md)"
            )
        if overrides := cpu_overrides(config):
            keys = ", ".join(f"`{key}: {_yaml(config[key])}`" for key in overrides)
            problems.append(
                f"{path}: {keys} need a GPU, and {_why_no_gpu()}; to try it on this CPU add "
                f"`{_flags(overrides)}`"
            )
        return problems
    major, minor = torch.cuda.get_device_capability()
    card, archs = torch.cuda.get_device_name(), torch.cuda.get_arch_list()
    built, this = [int(arch.split("_")[1].rstrip("af")) for arch in archs], major * 10 + minor
    too_new = this > max(built, default=this) and not any("compute" in arch for arch in archs)
    if too_new or this < min(built, default=this):
        problems.append(
            f"{path}: {card} is sm_{this}, and this PyTorch is built for {', '.join(archs)}; "
            f"install a build for {'a newer' if too_new else 'an older'} CUDA, such as "
            f"`UV_TORCH_BACKEND={'cu130' if too_new else 'cu126'} sh scripts/setup.sh .venv`"
        )
    if major < AMPERE and (overrides := old_card_overrides(config)):
        problems.append(
            f"{path}: {card} (sm_{major}{minor}) is older than Ampere: it has no bf16, no TF32 and "
            "no FlashAttention, which PyTorch's varlen attention is built on; add "
            f"`{_flags(overrides)}`"
        )
    triton_keys = [key for key in TRITON_KEYS if config.get(key)]
    if (  # Axolotl switches them on
        config.get("adapter") in ("lora", "qlora")
        and not any(config.get(key) is not None for key in LORA_KERNELS)
        and not (config.get("load_in_8bit") or config.get("trust_remote_code"))
    ):
        triton_keys += LORA_KERNELS
    if triton_keys and (lack := _lacks_to_compile()):
        problems.append(
            f"{path}: {triton_keys[0]}: Triton compiles its launcher and lacks {lack}; install gcc "
            "and Python's headers (Debian's python3-dev), or set "
            f"{', '.join(triton_keys)} to false"
        )
    return problems


def _lacks_to_compile() -> str:
    """Return what Triton (3.7, runtime/build.py) would not find: a C compiler, or Python.h."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler"
    scheme = sysconfig.get_default_scheme()  # Debian's has no headers
    scheme = "posix_prefix" if scheme == "posix_local" else scheme
    headers = Path(sysconfig.get_paths(scheme)["include"])
    return "" if (headers / "Python.h").is_file() else f"Python.h in {headers}"


def lone_process_problems(path: Path, config: dict[str, Any]) -> list[str]:
    """Return a problem if this process trains alone on a machine with several GPUs.

    Started by accelerate it would split each batch among them (DataParallel), otherwise the layers.
    The fused LoRA kernels work with neither.
    """
    import torch

    placed = any(config.get(key) for key in ("use_ray", "device_map", "max_memory"))
    if placed or "LOCAL_RANK" in os.environ or torch.cuda.device_count() < 2:
        return []
    return [
        f"{path}: a single process sees {torch.cuda.device_count()} GPUs; use one of them, such as "
        "with `export CUDA_VISIBLE_DEVICES=0`, or start one process for each (docs/distributed.md)"
    ]


def _why_no_gpu() -> str:
    """Return PyTorch's reason: no CUDA in this build, no driver, an old driver, or no card."""
    import torch

    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is built without CUDA: install its CUDA build"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split(" Please")[0].splitlines()[0].rstrip(".")
        return f"PyTorch {torch.__version__} says: {reason}; `nvidia-smi` shows driver and cards"
    return "none is visible; see `nvidia-smi` and CUDA_VISIBLE_DEVICES"


def _flags(settings: dict[str, Any]) -> str:
    return " ".join(f"--{key} {_yaml(value)}" for key, value in settings.items())


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---- memory: the least that training needs, and what to change when it runs out ----
# The lower bound is arithmetic. It leaves out what autograd keeps for the backward pass, because
# that depends on kernels and attention; the first training steps measure it.

NF4 = 0.5 + (1 + 4 / 256) / 64  # bytes per weight: 1 more for 64 weights, 4 for 256 of those
# Losses that never keep a float32 copy of all logits in memory.
FRUGAL_LOSSES = ("cut_cross_entropy", "chunked_cross_entropy", "liger_cross_entropy",
                 "liger_fused_linear_cross_entropy")  # fmt: skip
LOGIT_BYTES = 8  # bytes: transformers' loss keeps log-softmax and gradient, both in float32
# With any of these keys a process does not hold all weights, so no bound is known.
PLACED_ELSEWHERE = ("deepspeed", "fsdp", "fsdp_config", "device_map", "layer_offloading",
                    "tensor_parallel_size", "ple_cpu_offload", "quantize_moe_experts")  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """The number of weights in a base model and in its adapter."""

    parameters: int  # all weights of the base model
    linear: int  # in linear layers except the output layer: what quantisation shrinks
    head: int  # in the output layer
    vocabulary: int
    adapter: int  # the trained weights


def lora_settings(config: dict[str, Any], model: Any) -> Any:
    """Return PEFT's config for the recipe's adapter, as Axolotl builds it."""
    from axolotl.loaders.adapter import load_lora
    from axolotl.utils.dict import DictDefault

    with_dropout = {"lora_dropout": 0.0, **config}  # Axolotl's default, which PEFT needs
    return load_lora(model, DictDefault(with_dropout), config_only=True)[1]


def count_weights(recipe: Recipe) -> Weights:
    """Build the model and its adapter on PyTorch's `meta` device (no memory), and count weights.

    Raises UserError if the model's config cannot be read.
    """
    import torch
    from peft import get_peft_model

    model = empty_model(recipe)
    head = model.get_output_embeddings()
    parameters = model.num_parameters()
    linear = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
    settings = lora_settings(recipe.config, model)
    settings.init_lora_weights = False  # some of PEFT's initialisations read the base weights
    with torch.device("meta"):
        adapter, _ = get_peft_model(model, settings).get_nb_trainable_parameters()
    return Weights(parameters, linear, head.weight.numel(), head.weight.shape[0], adapter)


@dataclass(frozen=True)
class LeastMemory:
    """A lower bound on the peak memory of a process, whatever the kernels; `lines` explain it."""

    total: float  # bytes
    lines: list[str]


def least_memory(recipe: Recipe, largest_batch: int) -> LeastMemory | None:
    """Return the least memory of a training process, or None if no bound is known.

    `largest_batch`: tokens that a process computes in one pass. Raises UserError if the model's
    config cannot be read.
    """
    config = recipe.config
    lora = config.get("adapter") in ("lora", "qlora")
    if not lora or any(config.get(key) not in (None, False, 1) for key in PLACED_ELSEWHERE):
        return None
    weights = count_weights(recipe)
    float_bytes = 2 if config.get("bf16") or config.get("fp16") else 4
    each = NF4 if config.get("load_in_4bit") else 1 if config.get("load_in_8bit") else float_bytes
    base_bytes = weights.linear * each + (weights.parameters - weights.linear) * float_bytes
    optimizer, trained_bytes = str(config.get("optimizer")), 8  # bytes: float32 weight and gradient
    if "adam" in optimizer and "paged" not in optimizer:  # paged ones may be in the host's memory
        trained_bytes += 2 if "8bit" in optimizer else 0 if "4bit" in optimizer else 8
    logit_bytes = 0 if any(map(config.get, FRUGAL_LOSSES)) else LOGIT_BYTES
    parts = {
        "weights": base_bytes,
        "adapter": weights.adapter * trained_bytes,
        "logits": largest_batch * weights.vocabulary * logit_bytes,
    }
    total = sum(parts.values())
    terms = " + ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    lines = [
        f"at least {total / 1e9:.1f} GB per process = {terms}; training measures the rest",
        f"weights {weights.parameters:,} x {base_bytes / weights.parameters:.2g} bytes; adapter "
        f"{weights.adapter:,} x {trained_bytes} bytes; logits {largest_batch:,} tokens x "
        f"{weights.vocabulary:,} x {logit_bytes} bytes",
    ]
    return LeastMemory(total, lines)


# The second is torch.save's error, the third that of a quota.
FULL_DISK = ("No space left on device", "unexpected pos", "Disk quota exceeded")


def disk_full(recipe: Recipe, error: BaseException) -> str | None:
    """Return one line if the error means that a disk is full, with whose; else None."""
    text = str(error)
    if not any(words in text for words in FULL_DISK):
        return None
    if "shm" in text or "shared memory" in text:
        return f"{recipe.path}: /dev/shm is full; in Docker, run with `--shm-size 8g`"
    place = getattr(error, "filename", None)
    place = place or f"{recipe.output_dir} (checkpoints) or of HF_HOME (downloads)"
    return (
        f"{recipe.path}: no space is left on the disk of {place}; free some, and run the same "
        "command again, which resumes"
    )


def out_of_memory(recipe: Recipe, error: BaseException) -> str:
    """Return one line that says memory ran out and what to change."""
    match = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    needed = f" ({match[1]} more were needed)" if match else ""
    return f"{recipe.path}: memory ran out{needed}; {what_to_change(recipe.config)}"


def what_to_change(config: dict[str, Any]) -> str:
    """Return the three cheapest changes that save memory and that the recipe lacks."""
    fixes = []
    micro = int(config.get("micro_batch_size") or 1)
    accumulation = int(config.get("gradient_accumulation_steps") or 1)
    if micro > 1:
        factor = 2 if micro % 2 == 0 else micro
        fixes.append(
            f"`micro_batch_size: {micro // factor}` with `gradient_accumulation_steps: "
            f"{accumulation * factor}` (the same batch)"
        )
    if not config.get("gradient_checkpointing"):
        fixes.append("`gradient_checkpointing: true` (slower by about a third)")
    if not config.get("load_in_4bit"):
        fixes.append("`adapter: qlora` with `load_in_4bit: true` (a quarter of the weights' bytes)")
    length = int(config.get("sequence_len") or 512)
    fixes.append(f"`sequence_len: {length // 2}` (preflight shows how many rows are then too long)")
    if "8bit" not in str(config.get("optimizer")):
        fixes.append("`optimizer: adamw_8bit` (10 bytes per adapter weight instead of 16)")
    fixes.append("a smaller `lora_r`")
    numbered = "; ".join(f"{number}. {text}" for number, text in enumerate(fixes[:3], 1))
    return f"make these changes in this order, and start again: {numbered}"
