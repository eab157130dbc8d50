"""Compare our generation with the plain way: one dialogue at a time, unsorted, unmerged.

Both ways summarise the same test dialogues, spread evenly over the split, in one run: the plain way
with transformers' `generate` and an adapter beside the weights, ours as `eval.run` does. In float32
the summaries that differ are due to batching and merging alone. `scripts/bench_cpu.py` calls
`compare_generation`; `scripts/bench_gpu.py` starts this module as a process of its own.
"""

import argparse
import gc
import json
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from pydantic import BaseModel
from transformers import AutoModelForCausalLM, GenerationConfig

from data_prep.errors import UserError, run_cli, whole_file
from data_prep.prepare import check_prepared
from data_prep.prompt import Example, read_examples
from data_prep.recipe import Recipe, load_recipe
from eval.adapter import find_adapter
from eval.generate import Prediction, Summarizer, resolve

Outputs = dict[str, Prediction]  # by id, of the dialogues that a way got to
WARM_UP = 8  # untimed dialogues, or tokens of the plain way: a GPU loads its kernels in them


class Way(BaseModel):
    """The speed of one way; `peak_gb` is a GPU's memory, 0 on a CPU."""

    way: str
    model: str
    dtype: str
    dialogues: int
    seconds: float
    tokens: int
    dialogues_per_second: float
    tokens_per_second: float
    peak_gb: float


def compare_generation(
    recipe: Recipe,
    models: list[str],
    dialogues: int,
    dtypes: list[str],
    plain_dtypes: list[str],
    plain_seconds: float | None = None,
    output: Path | None = None,
) -> None:
    """Time ours in each of `dtypes`, then the plain way in each of its own, for each model.

    `dialogues`: how many of the test split, 0 for all; `plain_seconds` ends the plain way, which
    would take most of an hour for a 7B model; `output`: JSON of all figures so far.
    """
    check_prepared(recipe)
    examples = read_examples(recipe.data_dir / "test.jsonl")
    count = dialogues or len(examples)
    if not 1 <= count <= len(examples):
        raise UserError(f"--dialogues: {count}; choose 1 to {len(examples)}, or 0 for all")
    examples = [examples[n * len(examples) // count] for n in range(count)]
    adapter = find_adapter(recipe) if "tuned" in models else None
    found: list[Way] = []
    outputs: dict[tuple[str, str], Outputs] = {}
    gpu = torch.cuda.is_available()

    def measure(
        way: str, model: str, dtype: str, make: Callable[[], Iterator[Prediction]]
    ) -> Outputs:
        """Time it, print it, and write all figures so far."""
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        made = {prediction.id: prediction for prediction in make()}
        seconds = time.perf_counter() - start
        tokens = sum(prediction.tokens for prediction in made.values())
        now = Way(
            way=way, model=model, dtype=dtype, dialogues=len(made), seconds=seconds, tokens=tokens,
            dialogues_per_second=len(made) / seconds, tokens_per_second=tokens / seconds,
            peak_gb=torch.cuda.max_memory_reserved() / 1e9 if gpu else 0.0,
        )  # fmt: skip
        found.append(now)
        print(
            f"{model}, {way}, {dtype}: {len(made)} dialogues in {seconds:.1f} s, "
            f"{now.dialogues_per_second:.2f} dialogues/s, {now.tokens_per_second:.0f} tokens/s",
            flush=True,
        )
        if output:
            with whole_file(output) as file:
                json.dump([one.model_dump() for one in found], file, indent=1)
        return made

    for dtype in dtypes:
        chosen = resolve(recipe.summarization.decoding.model_copy(update={"dtype": dtype}))
        ours = Summarizer(recipe, chosen, adapter)
        for model in models:
            ours.use(model)
            if gpu:
                list(ours.summaries(examples[:WARM_UP]))
            make = partial(ours.summaries, examples)
            outputs[model, chosen.dtype] = measure("ours", model, chosen.dtype, make)
        ours.engine = None  # type: ignore[assignment]  # its memory goes to what follows
    gc.collect()
    for dtype in plain_dtypes:
        plain: Any = AutoModelForCausalLM.from_pretrained(
            recipe.config["base_model"],
            dtype=getattr(torch, dtype),
            device_map="cuda" if gpu else "cpu",
        ).eval()
        for model in models:
            if model == "tuned":
                plain = PeftModel.from_pretrained(plain, str(adapter)).eval()
            if gpu:
                list(one_by_one(plain, examples[:1], ours, WARM_UP, None))
            limit = chosen.max_new_tokens
            make = partial(one_by_one, plain, examples, ours, limit, plain_seconds)
            made = measure("plain", model, dtype, make)
            for other in [w for w in found if w.way == "ours" and w.model == model]:
                quick = outputs[model, other.dtype]
                same = sum(one.prediction == quick[id].prediction for id, one in made.items())
                ratio = other.dialogues_per_second / found[-1].dialogues_per_second
                print(f"  ratio {ratio:.1f} to {other.dtype}; {same} of {len(made)} the same")
        del plain
        gc.collect()


def one_by_one(
    model: Any, examples: list[Example], ours: Summarizer, limit: int, seconds: float | None
) -> Iterator[Prediction]:
    """The plain way: a call of `generate` for each dialogue, in random order, until time is up."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=ours.ends, pad_token_id=ours.ends[0]
    )
    start = time.perf_counter()
    for example in random.Random(0).sample(examples, len(examples)):
        ids = torch.tensor([ours.encoder.prompt_ids(example)], device=model.device)
        with torch.inference_mode():
            made = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
            )
        yield ours.read_output(example, made[0, ids.shape[1] :].tolist())  # waits for the GPU
        if seconds is not None and time.perf_counter() - start > seconds:
            break


def main() -> None:
    """The process that scripts/bench_gpu.py starts: the base model, bf16, all test dialogues."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--plain-seconds", type=float, help="then the plain way ends")
    parser.add_argument("--output", type=Path, help="a JSON file of the figures too")
    args = parser.parse_args()
    compare_generation(
        load_recipe(args.recipe), ["base"], 0, ["bfloat16"], ["float32", "bfloat16"],
        args.plain_seconds, args.output,
    )  # fmt: skip


if __name__ == "__main__":
    run_cli(main)
