"""Compare our generation with the plain way: one dialogue at a time, fp32, unsorted, unmerged.

    python scripts/bench_generate.py recipes/smollm2_samsum_corpus.yml --dialogues 48

Both ways summarise the same test dialogues, spread evenly over the split, in one run: the plain way
with transformers' `generate` and an adapter that stays beside the weights, ours as `eval.run` does.
Prints dialogues/s, their ratio, and how many summaries come out the same. With `--dtype float32`
the difference is that of batching alone. Prepare the data and train first.
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
from eval.generate import Summarizer, find_adapter, resolve

Ids = list[list[int]]


def main() -> None:
    """Time both ways for each model and print one line a way and the ratio."""
    args = _arguments()
    recipe = load_recipe(args.recipe)
    check_prepared(recipe)
    rows = read_rows(recipe.data_dir / "test.jsonl")
    if not 1 <= args.dialogues <= len(rows):
        raise UserError(f"--dialogues: {args.dialogues}; choose 1 to {len(rows)}")
    rows = [rows[n * len(rows) // args.dialogues] for n in range(args.dialogues)]
    chosen = recipe.summarization.decoding.model_copy(update={"dtype": args.dtype})
    models = args.models.split(",")
    adapter = find_adapter(recipe) if "tuned" in models else None
    ours = Summarizer(recipe, resolve(chosen), rows, adapter)
    end, limit = ours.end, chosen.max_new_tokens
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in models:
        ours.use(name)
        base = AutoModelForCausalLM.from_pretrained(
            recipe.config["base_model"], dtype=torch.float32, device_map=device
        ).eval()
        model = PeftModel.from_pretrained(base, str(adapter)).eval() if name == "tuned" else base
        fast, fast_s = timed(partial(batched, ours))
        plain, plain_s = timed(partial(one_by_one, model, ours.prompts, end, limit))
        show(name, fast, fast_s, plain, plain_s)


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


def show(name: str, fast: Ids, fast_s: float, plain: Ids, plain_s: float) -> None:
    """Print one line a way, the ratio of dialogues/s, and how many outputs agree."""
    count = len(plain)
    for way, outputs, seconds in (("plain", plain, plain_s), ("ours", fast, fast_s)):
        tokens = sum(map(len, outputs)) / seconds
        speed = f"{count / seconds:.2f} dialogues/s, {tokens:.0f} tokens/s"
        print(f"{name} {way}: {count} dialogues in {seconds:.1f} s, {speed}")
    same = sum(one == other for one, other in zip(fast, plain, strict=True))
    print(f"{name} ratio: {plain_s / fast_s:.1f}; {same} of {count} outputs the same", flush=True)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/smollm2_samsum.yml"))
    parser.add_argument("--dialogues", type=int, default=40)
    parser.add_argument("--models", default="base,tuned")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
