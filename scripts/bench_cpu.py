"""Compare training and generation on this machine with plain PyTorch and transformers.

    python -m scripts.bench_cpu recipes/smollm2_samsum.yml --steps 24 --dialogues 40

Training: Axolotl trains the unchanged recipe. After each of its steps a bare PyTorch loop does
forward and backward on a batch of as many tokens without padding, with the same weights and
precision, so that drifting machine speed affects both alike. Useful tokens exclude padding.
Axolotl's time covers a whole step: data, forward, backward, optimiser and logging.

Generation: every method summarises the same test dialogues, spread evenly over the split. `plain`
is the notebook's method: one dialogue at a time, unsorted, with the adapter not merged. In float32,
summaries differ only because of batching and merging. With `--steps 0` it also measures generation
on a GPU; scripts/bench_gpu.py uses this.

Prepare the data first; `tuned` needs a trained adapter.
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field

from data_prep.errors import UserError, atomic_file, run_cli
from data_prep.options import Options
from data_prep.prepare import check_prepared
from data_prep.prompt import Example, read_examples
from data_prep.recipe import Recipe, load_recipe
from eval.adapter import find_adapter
from eval.generate import Prediction, Summarizer, resolve
from scripts.bench_gpu import RESULT

UNTIMED_STEPS = 3  # they compile kernels and allocate memory
UNTIMED = 8  # dialogues, or tokens for `plain`: a GPU loads its kernels in them
ENGINES = ("hf", "vllm")


def main() -> None:
    """Run both comparisons."""
    parser = Options(
        "scripts.bench_cpu", __doc__.splitlines()[0],
        "recipes/smollm2_samsum.yml --steps 24 --dialogues 40 --models both",
        "--steps 0 --models base --dtype bfloat16,float32 --engines hf --plain-dtype float32 "
        "--plain-seconds 60 --output outputs/generation.json",
    )  # fmt: skip
    add = parser.add_argument
    add("recipe", type=Path, nargs="?", default=Path("recipes/smollm2_samsum.yml"),
        help="recipe file")  # fmt: skip
    add("--steps", type=int, default=24, help=f"training steps: 0, or more than {UNTIMED_STEPS}")
    add("--dialogues", type=int, default=40, help="number from the test split; 0: all")
    add("--models", default="both", help="models that generate: base, tuned, both, or none")
    add("--dtype", default="auto", help="auto, bfloat16, float32, or several separated by commas")
    add("--engines", default="hf", help=f"one or more of {','.join(ENGINES)}")
    add("--plain-dtype", default="float32", help="precision of plain generation")
    add("--plain-seconds", type=float,
        help="time limit of plain generation (default: none)")  # fmt: skip
    add("--output", type=Path, help="JSON file for the generation figures (default: none)")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    if 0 < args.steps <= UNTIMED_STEPS:
        raise UserError(f"--steps: {args.steps}; use 0, or more than {UNTIMED_STEPS}")
    if unknown := set(args.engines.split(",")) - set(ENGINES):
        raise UserError(f"--engines: {', '.join(unknown)}; choose from {', '.join(ENGINES)}")
    if args.steps:
        compare_training(args.recipe, args.steps)
    if args.models != "none":
        compare_generation(recipe, args)


# ---- training ----


def compare_training(path: Path, steps: int) -> None:
    """Train some steps with `BarePlugin`; print useful tokens/s of both, and the ratio."""
    config = yaml.safe_load(path.read_text("utf-8"))
    if config.get("gradient_accumulation_steps", 1) != 1 or config.get("sample_packing"):
        raise UserError(f"{path}: needs gradient_accumulation_steps 1 and no packing here")
    config["plugins"].append("scripts.bench_plugins.BarePlugin")
    with tempfile.TemporaryDirectory() as folder:
        recipe, result = Path(folder) / "bench.yml", Path(folder) / "result.json"
        config["output_dir"] = f"{folder}/output"
        config |= {"max_steps": steps, "eval_strategy": "no", "save_strategy": "no"}
        config.pop("save_steps", None)
        recipe.write_text(yaml.safe_dump(config), "utf-8")
        process = subprocess.run(
            [sys.executable, "-m", "accelerate.commands.launch", "-m", "axolotl.cli.train", recipe],
            env={**os.environ, RESULT: str(result)}, capture_output=True, text=True,
        )  # fmt: skip
        if not result.is_file():
            raise UserError(f"{path}: the training failed: {process.stderr[-3000:]}")
        timed_steps = json.loads(result.read_text("utf-8"))[UNTIMED_STEPS:]
    useful = sum(step["useful"] for step in timed_steps)
    axolotl = useful / sum(step["axolotl_s"] for step in timed_steps)
    bare = useful / sum(step["bare_s"] for step in timed_steps)
    processed = sum(step["processed"] for step in timed_steps)
    print(f"{len(timed_steps)} steps, {useful:.0f} useful of {processed:.0f} processed tokens")
    print(f"axolotl {axolotl:.0f}, bare {bare:.0f} useful tokens/s: ratio {axolotl / bare:.2f}")


# ---- generation ----


class Way(BaseModel):
    """The speed of one method; `peak_gb` is GPU memory, 0 on a CPU."""

    way: str
    model: str
    dtype: str
    dialogues: int
    seconds: float
    tokens: int
    dialogues_per_second: float
    tokens_per_second: float
    peak_gb: float
    predictions: dict[str, str] = Field(exclude=True)  # by id


def compare_generation(recipe: Recipe, args: argparse.Namespace) -> None:
    """Time the engines in each precision, then plain; print how many summaries are the same.

    Writes `--output` after each method. Raises UserError if the recipe is not prepared or an engine
    is not installed.
    """
    check_prepared(recipe)
    examples = read_examples(recipe.data_dir / "test.jsonl")
    count = args.dialogues or len(examples)
    if not 1 <= count <= len(examples):
        raise UserError(f"--dialogues: {count}; choose 1 to {len(examples)}, or 0 for all")
    examples = [examples[n * len(examples) // count] for n in range(count)]
    ways: list[Way] = []
    for way in time_ways(recipe, args, examples):
        print(
            f"{way.model}, {way.way}, {way.dtype}: {way.dialogues} dialogues in {way.seconds:.1f} "
            f"s, {way.dialogues_per_second:.2f} dialogues/s, {way.tokens_per_second:.0f} tokens/s",
            flush=True,
        )
        ways.append(way)
        if args.output:
            with atomic_file(args.output) as file:
                json.dump([way.model_dump() for way in ways], file, indent=1)
        if way.way != "plain":
            continue
        for other in ways:
            if other.model == way.model and other.way != "plain":
                same = len(way.predictions.items() & other.predictions.items())
                ratio = other.dialogues_per_second / way.dialogues_per_second
                print(f"  {other.way}, {other.dtype}: ratio {ratio:.1f}; "
                      f"{same} of {way.dialogues} the same")  # fmt: skip


def time_ways(recipe: Recipe, args: argparse.Namespace, examples: list[Example]) -> Iterator[Way]:
    """Yield each engine, precision and model, then plain, whose model is loaded last."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = args.models.replace("both", "base,tuned").split(",")
    adapter = find_adapter(recipe) if "tuned" in models else None
    for dtype in args.dtype.split(","):
        for engine in args.engines.split(","):
            changes = {"dtype": dtype, "engine": engine}
            decoding = resolve(recipe.summarization.decoding.model_copy(update=changes))
            summarizer = Summarizer(recipe, decoding, adapter)
            for model in models:
                summarizer.use(model)
                if device == "cuda" or engine == "vllm":  # vLLM loads with its first prompts
                    list(summarizer.summaries(examples[:UNTIMED]))
                yield measure(engine, model, decoding.dtype, summarizer.summaries(examples))
            summarizer.engine = None  # type: ignore[assignment]  # free its memory
            gc.collect()
    for dtype in args.plain_dtype.split(","):
        plain_model: Any = AutoModelForCausalLM.from_pretrained(
            recipe.config["base_model"], dtype=getattr(torch, dtype), device_map=device
        ).eval()
        limit = decoding.max_new_tokens
        for model in models:
            if model == "tuned":
                plain_model = PeftModel.from_pretrained(plain_model, str(adapter)).eval()
            if device == "cuda":
                list(one_by_one(plain_model, examples[:1], summarizer, UNTIMED, None))
            predictions = one_by_one(plain_model, examples, summarizer, limit, args.plain_seconds)
            yield measure("plain", model, dtype, predictions)
        del plain_model
        gc.collect()


def measure(way: str, model: str, dtype: str, predictions: Iterator[Prediction]) -> Way:
    """Time the generation of `predictions`."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    outputs = list(predictions)
    seconds = time.perf_counter() - start
    tokens = sum(prediction.tokens for prediction in outputs)
    return Way(
        way=way, model=model, dtype=dtype, dialogues=len(outputs), seconds=seconds, tokens=tokens,
        dialogues_per_second=len(outputs) / seconds, tokens_per_second=tokens / seconds,
        peak_gb=torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else 0.0,
        predictions={prediction.id: prediction.prediction for prediction in outputs},
    )  # fmt: skip


def one_by_one(
    model: Any, examples: list[Example], ours: Summarizer, limit: int, seconds: float | None
) -> Iterator[Prediction]:
    """Call plain `generate` for each dialogue, in random order, until time is up."""
    import torch
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=ours.ends, pad_token_id=ours.ends[0]
    )
    start = time.perf_counter()
    for example in random.Random(0).sample(examples, len(examples)):
        ids = torch.tensor([ours.encoder.prompt_ids(example)], device=model.device)
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
            )
        yield ours.read_output(example, output[0, ids.shape[1] :].tolist())  # waits for the GPU
        if seconds is not None and time.perf_counter() - start > seconds:
            break


if __name__ == "__main__":
    run_cli(main)
