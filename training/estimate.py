"""What preflight prints of the work ahead: steps, memory and time, with the formulas in numbers.

from training.estimate import lines
for topic, text in lines(recipe, lengths(recipe)):
    print(topic, text)
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_prep.errors import UserError
from data_prep.hub import model_unavailable
from data_prep.recipe import Recipe
from training.machine_checks import LORA_KERNELS
from training.plan import Plan, for_gpu, keeps_to_rows, plan, with_defaults

ATTENTION_OUTPUT = "o_proj"  # what it reads, attention keeps anyway


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind. Counts are of the whole model, not of a layer."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    width: int  # of a head
    vocabulary: int
    parameters: int  # all of the base model
    linear: int  # those in linear layers, the output layer aside: what quantisation shrinks
    adapter: int  # those that are trained
    inputs: int  # widths of what the adapted layers read, summed
    shared_inputs: int  # the same, once where layers of a block read one tensor
    ranks: int  # of the adapted layers, summed

    @property
    def multiplied(self) -> int:
        """Weights that every token is multiplied with: those of linear and output layers."""
        return self.linear + self.hidden * self.vocabulary


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


MEASURED = "SmolLM2 on a CPU core, 12 runs of scripts/check_estimate.py"
ERRORS = {"tensors": "-10% to 0%", "all": "-13% to +38%", "time": "-24% to +7%"}


def lines(
    recipe: Recipe, counts: dict[str, list[int]], processes: int = 1
) -> Iterator[tuple[str, str]]:
    """`(topic, text)` for each line; `counts` as `lengths` gives them.

    Raises UserError where no training row is left, or the model's configuration cannot be had.
    """
    config, work = with_defaults(recipe.config), plan(recipe, counts["train"], processes)
    yield from (("steps", text) for text in _steps(config, work, processes))
    shape = shape_of(recipe)
    if shape is None:
        yield "memory", "memory and time are estimated for LoRA on decoders of Llama's kind alone"
        return
    gpu = for_gpu(config)
    size = number_size(config, gpu)
    memory = estimate_memory(config, shape, work, size, gpu)
    yield from (("memory", text) for text in _memory(config, shape, work, memory, gpu))
    yield from (("time", text) for text in _time(config, shape, work, size, gpu, processes))


def _steps(config: dict[str, Any], work: Plan, processes: int) -> Iterator[str]:
    unit = "packs" if work.packed else "rows"
    yield (
        f"{work.rows:,} rows with {work.tokens:,} tokens fill {work.batches:,} batches an epoch; "
        f"{work.padding:.0%} of what is computed is padding"
    )
    yield (
        f"effective batch {work.effective_batch} {unit} = micro_batch_size "
        f"{config['micro_batch_size']} x gradient_accumulation_steps "
        f"{config['gradient_accumulation_steps']} x {_processes(processes)}: "
        f"{work.tokens_per_step:,.0f} tokens a step"
    )
    asked = f"max_steps {config['max_steps']}" if config.get("max_steps") else ""
    asked = asked or f"num_epochs {config['num_epochs']:g}"
    yield (
        f"{work.steps:,} steps = {work.epochs:.2f} epochs of {work.steps_per_epoch:,} steps "
        f"({asked})"
    )


def _memory(
    config: dict[str, Any], shape: Shape, work: Plan, memory: Memory, gpu: bool
) -> Iterator[str]:
    moving = "one layer" if memory.redone > memory.logits else "logits"
    parts = {
        "weights": memory.weights,
        "adapter": memory.adapter,
        "activations": memory.activations,
        moving: max(memory.redone, memory.logits),
        "overhead": memory.overhead,
    }
    each = "a GPU" if gpu else "a process"
    total = " + ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    yield f"about {sum(parts.values()) / 1e9:.1f} GB {each} = {total}"
    yield (
        f"weights {shape.parameters:,} parameters x {memory.weights / shape.parameters:.2g} bytes; "
        f"adapter {shape.adapter:,} x {memory.adapter // shape.adapter} bytes"
    )
    kept = "their inputs" if config.get("gradient_checkpointing") else "what autograd keeps"
    yield (
        f"activations {work.largest_batch:,} tokens x {shape.layers} layers x "
        f"{memory.activations // work.largest_batch // shape.layers:,} bytes ({kept}); logits "
        f"{work.largest_batch:,} tokens x {shape.vocabulary:,} x "
        f"{memory.logits // work.largest_batch // shape.vocabulary} bytes"
    )
    if gpu:
        yield (
            f"overhead {CONTEXT_GPU / 1e9:.2f} GB of CUDA + {HOLES_GPU:.0%} of activations and "
            "logits: assumed, not measured"
        )
    else:
        yield f"overhead {HOLES_CPU:.0%} of activations and logits: freed memory that is kept"
    yield (
        f"error of the estimate without overhead {ERRORS['tensors']}, with a CPU's overhead "
        f"{ERRORS['all']} ({MEASURED}); never measured on a GPU"
    )


def _time(
    config: dict[str, Any], shape: Shape, work: Plan, size: int, gpu: bool, processes: int
) -> Iterator[str]:
    rate, each = rate_of(size, gpu), operations_a_token(config, shape, work)
    seconds = work.computed_tokens * each / rate.training / processes
    yield (
        f"about {_duration(seconds)}, evaluation aside = {work.computed_tokens:,.0f} tokens x "
        f"{each / 1e9:.2f} GFLOP / ({rate.product / 1e12:.3g} TFLOP/s x {rate.efficiency:g} x "
        f"{_processes(processes)})"
    )
    yield (
        f"{rate.product / 1e12:.3g} TFLOP/s is a matrix product {rate.source}; the factor is "
        + ("assumed, not measured" if gpu else f"measured, error {ERRORS['time']} ({MEASURED})")
    )


def _processes(count: int) -> str:
    return f"{count} process" + ("es" if count > 1 else "")


def _duration(seconds: float) -> str:
    """Two digits are more than the estimate is worth."""
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


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


def number_size(config: dict[str, Any], gpu: bool) -> int:
    """Bytes of a number in the recipe's precision: 2 or 4."""
    from data_prep.machine import bf16_is_faster

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


def shape_of(recipe: Recipe) -> Shape | None:
    """Build the model and its adapter without memory (on PyTorch's `meta` device), and count.

    None for another kind of model, or of training than LoRA. Raises UserError where the model's
    configuration cannot be had.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = recipe.config
    try:
        sizes = AutoConfig.from_pretrained(
            config["base_model"],
            revision=config.get("revision_of_model") or "main",
            trust_remote_code=bool(config.get("trust_remote_code")),
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(sizes)
    except (OSError, ValueError) as error:
        raise UserError(model_unavailable(recipe, error)) from error
    try:
        known = dict(
            layers=sizes.num_hidden_layers,
            hidden=sizes.hidden_size,
            intermediate=sizes.intermediate_size,
            heads=sizes.num_attention_heads,
            key_heads=sizes.num_key_value_heads,
            width=getattr(sizes, "head_dim", None)
            or sizes.hidden_size // sizes.num_attention_heads,
            vocabulary=sizes.vocab_size,
        )
    except AttributeError:
        return None
    if config.get("adapter") not in ("lora", "qlora"):
        return None
    head = model.get_output_embeddings()
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    return Shape(
        **known,
        parameters=sum(p.numel() for p in model.parameters()),
        linear=sum(m.weight.numel() for m in linears),
        **_adapter(config, model),
    )


def _adapter(config: dict[str, Any], model: Any) -> dict[str, int]:
    """Counts of what PEFT adds to the model, with the layers that Axolotl would choose."""
    import torch
    from axolotl.loaders.adapter import find_all_linear_names
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    targets = config.get("lora_target_modules") or []
    if config.get("lora_target_linear"):
        targets = [*([targets] if isinstance(targets, str) else targets),
                   *find_all_linear_names(model)]  # fmt: skip
    settings = LoraConfig(
        r=config["lora_r"],
        target_modules=targets,
        layers_to_transform=config.get("peft_layers_to_transform"),
        rank_pattern=config.get("lora_rank_pattern") or {},
        modules_to_save=config.get("lora_modules_to_save"),
        task_type="CAUSAL_LM",
    )
    with torch.device("meta"):
        adapted = get_peft_model(model, settings)
    layers: dict[str, Any] = {
        name: module for name, module in adapted.named_modules() if isinstance(module, LoraLayer)
    }
    shared = {
        (name.rpartition(".")[0], layer.in_features)
        for name, layer in layers.items()
        if not name.endswith(ATTENTION_OUTPUT)
    }
    return {
        "adapter": sum(p.numel() for p in adapted.parameters() if p.requires_grad),
        "inputs": sum(layer.in_features for layer in layers.values()),
        "shared_inputs": sum(width for _, width in shared),
        "ranks": sum(rank for layer in layers.values() for rank in layer.r.values()),
    }
