"""What preflight prints of the work ahead: steps, memory and time, with the formulas in numbers.

from data_prep.preflight.estimate import lines
for topic, text in lines(recipe, lengths(recipe)):
    print(topic, text)
"""

from collections.abc import Iterator
from typing import Any

from data_prep.preflight.memory import CONTEXT_GPU, HOLES_CPU, HOLES_GPU, Memory, estimate_memory
from data_prep.preflight.model_shape import Shape, shape_of
from data_prep.preflight.plan import Plan, for_gpu, plan, with_defaults
from data_prep.preflight.speed import number_size, operations_a_token, rate_of
from data_prep.recipe import Recipe

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
