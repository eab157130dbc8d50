"""Compare our generation with the plain way: one dialogue at a time, fp32, unsorted, unmerged.

    python scripts/bench_generate.py recipes/smollm2_samsum_corpus.yml --dialogues 48

Both ways summarise the same test dialogues, spread evenly over the split, in one run: the plain way
with transformers' `generate` and an adapter that stays beside the weights, ours as `eval.run` does.
Prints dialogues/s, their ratio, and how many summaries come out the same; with float32 in `--dtype`
what differs there is due to batching and merging alone. Prepare the data and train first.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

from data_prep.errors import UserError, run_cli
from data_prep.manifest import check_prepared
from data_prep.prompt import read_rows
from data_prep.recipe import load_recipe
from data_prep.training.adapter import find_adapter
from eval.generate import Summarizer, resolve

Ids = list[list[int]]


def main() -> None:
    """Time the plain way, and ours in each precision, for each model."""
    args = _arguments()
    recipe = load_recipe(args.recipe)
    check_prepared(recipe)
    rows = read_rows(recipe.data_dir / "test.jsonl")
    if not 1 <= args.dialogues <= len(rows):
        raise UserError(f"--dialogues: {args.dialogues}; choose 1 to {len(rows)}")
    rows = [rows[n * len(rows) // args.dialogues] for n in range(args.dialogues)]
    models = args.models.split(",")
    adapter = find_adapter(recipe) if "tuned" in models else None
    block = recipe.summarization.decoding
    chosen = [resolve(block.model_copy(update={"dtype": name})) for name in args.dtype.split(",")]
    ours = {one.dtype: Summarizer(recipe, one, rows, adapter) for one in chosen}
    first = next(iter(ours.values()))
    for name in models:
        base = AutoModelForCausalLM.from_pretrained(
            recipe.config["base_model"],
            dtype=torch.float32,
            device_map="cuda" if torch.cuda.is_available() else "cpu",
        ).eval()
        model = PeftModel.from_pretrained(base, str(adapter)).eval() if name == "tuned" else base
        plain = partial(one_by_one, model, first.prompts, first.end, block.max_new_tokens)
        expected, plain_s = timed(plain)
        show(f"{name}, plain, float32", expected, plain_s)
        for dtype, summarizer in ours.items():
            summarizer.use(name)
            outputs, seconds = timed(partial(batched, summarizer))
            show(f"{name}, ours, {dtype}", outputs, seconds)
            same = sum(one == other for one, other in zip(outputs, expected, strict=True))
            print(f"  ratio {plain_s / seconds:.1f}; {same} of {len(rows)} outputs the same")


def one_by_one(model: Any, prompts: Ids, end: int, limit: int) -> Ids:
    """The plain way: a call of `generate` for each dialogue, in the file's order."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=end, pad_token_id=end
    )
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=model.device)
        with torch.inference_mode():
            made = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
            )
        outputs.append(made[0, len(prompt) :].tolist())
    return outputs


def batched(ours: Summarizer) -> Ids:
    """Our way: the batches of `eval.run`, longest dialogues first; outputs in the file's order."""
    outputs: Ids = [[] for _ in ours.prompts]
    for batch in ours.batches:
        made = ours.engine.generate([ours.prompts[row] for row in batch], ours.seed)
        for row, ids in zip(batch, made, strict=True):
            outputs[row] = ids[: ids.index(ours.end) + 1] if ours.end in ids else ids
    return outputs


def timed(generate: Callable[[], Ids]) -> tuple[Ids, float]:
    """Outputs and seconds."""
    start = time.perf_counter()
    outputs = generate()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return outputs, time.perf_counter() - start


def show(way: str, outputs: Ids, seconds: float) -> None:
    """Print the speed of one way."""
    count, tokens = len(outputs), sum(map(len, outputs))
    speed = f"{count / seconds:.2f} dialogues/s, {tokens / seconds:.0f} tokens/s"
    print(f"{way}: {count} dialogues in {seconds:.1f} s, {speed}", flush=True)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/smollm2_samsum.yml"))
    parser.add_argument("--dialogues", type=int, default=40)
    parser.add_argument("--models", default="base,tuned")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float32, or several")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
