"""Compare our generation with the plain way: one dialogue at a time, unsorted, unmerged.

    python scripts/bench_generate.py recipes/smollm2_samsum_corpus.yml --dialogues 48

Both ways summarise the same test dialogues, spread evenly over the split, in one run: the plain way
with transformers' `generate` and an adapter that stays beside the weights, ours as `eval.run` does.
Prints dialogues/s, their ratio, and how many summaries come out the same; with float32 in `--dtype`
what differs there is due to batching and merging alone. A model of 7 billion weights would take the
plain way most of an hour: `--plain-seconds 20` ends it, after a random choice of the dialogues.
Prepare the data and train first.
"""

import argparse
import gc
import json
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

from data_prep.errors import UserError, run_cli, whole_file
from data_prep.prepare import check_prepared
from data_prep.prompt import read_rows
from data_prep.recipe import load_recipe
from eval.adapter import find_adapter
from eval.generate import Summarizer, resolve

Outputs = dict[int, list[int]]  # new token ids of the prompts that a way got to, by their number
WARM_UP = 8  # prompts, and tokens of the plain way, on a GPU: kernels are loaded and tuned


def main() -> None:
    """Time ours in each precision, then the plain way in each of its own, for each model."""
    args = _arguments()
    recipe = load_recipe(args.recipe)
    check_prepared(recipe)
    rows = read_rows(recipe.data_dir / "test.jsonl")
    count = len(rows) if args.dialogues == 0 else args.dialogues
    if not 1 <= count <= len(rows):
        raise UserError(f"--dialogues: {count}; choose 1 to {len(rows)}, or 0 for all")
    rows = [rows[n * len(rows) // count] for n in range(count)]
    models = args.models.split(",")
    adapter = find_adapter(recipe) if "tuned" in models else None
    decoding = recipe.summarization.decoding
    limit = decoding.max_new_tokens
    found: list[dict[str, Any]] = []
    made: dict[tuple[str, str], Outputs] = {}
    for name in args.dtype.split(","):
        chosen = resolve(decoding.model_copy(update={"dtype": name}))
        ours = Summarizer(recipe, chosen, rows, adapter)
        prompts, end = ours.prompts, ours.end
        for model in models:
            ours.use(model)
            if torch.cuda.is_available():
                ours.engine.generate([prompts[n] for n in ours.batches[-1][:WARM_UP]], 0)
            outputs, record = timed(partial(batched, ours))
            made[model, chosen.dtype] = outputs
            way = {"way": "ours", "model": model, "dtype": chosen.dtype}
            _note(args.output, found, way, record)
        del ours  # the memory goes to the plain way
    gc.collect()
    for dtype in args.plain.split(","):
        plain: Any = AutoModelForCausalLM.from_pretrained(
            recipe.config["base_model"],
            dtype=getattr(torch, dtype),
            device_map="cuda" if torch.cuda.is_available() else "cpu",
        ).eval()
        for model in models:
            if model == "tuned":
                plain = PeftModel.from_pretrained(plain, str(adapter)).eval()
            if torch.cuda.is_available():
                one_by_one(plain, prompts[:1], end, WARM_UP, None)
            outputs, record = timed(
                partial(one_by_one, plain, prompts, end, limit, args.plain_seconds)
            )
            way = {"way": "plain", "model": model, "dtype": dtype}
            _note(args.output, found, way, record)
            for other in found:
                if other["way"] == "ours" and other["model"] == model:
                    quick = made[model, other["dtype"]]
                    same = sum(ids == quick[n] for n, ids in outputs.items())
                    times = other["dialogues_per_second"] / record["dialogues_per_second"]
                    print(f"  ratio {times:.1f} to {other['dtype']}; "
                          f"{same} of {len(outputs)} outputs the same")  # fmt: skip
        del plain
        gc.collect()


def one_by_one(
    model: Any, prompts: list[list[int]], end: int, limit: int, seconds: float | None
) -> Outputs:
    """The plain way: a call of `generate` for each dialogue, in any order, until time is up."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=end, pad_token_id=end
    )
    outputs: Outputs = {}
    start = time.perf_counter()
    for number in random.Random(0).sample(range(len(prompts)), len(prompts)):
        ids = torch.tensor([prompts[number]], device=model.device)
        with torch.inference_mode():
            made = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
            )
        outputs[number] = made[0, len(prompts[number]) :].tolist()
        if seconds is not None and time.perf_counter() - start > seconds:
            break
    return outputs


def batched(ours: Summarizer) -> Outputs:
    """Our way: the batches of `eval.run`, longest dialogues first."""
    outputs: Outputs = {}
    for batch in ours.batches:
        made = ours.engine.generate([ours.prompts[row] for row in batch], ours.seed)
        for row, ids in zip(batch, made, strict=True):
            outputs[row] = ids[: ids.index(ours.end) + 1] if ours.end in ids else ids
    return outputs


def timed(generate: Callable[[], Outputs]) -> tuple[Outputs, dict[str, float]]:
    """Outputs, and what they took: seconds, and GB of a GPU at their peak."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    outputs = generate()
    if gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    tokens = sum(map(len, outputs.values()))
    return outputs, {
        "dialogues": len(outputs), "seconds": seconds, "tokens": tokens,
        "dialogues_per_second": len(outputs) / seconds, "tokens_per_second": tokens / seconds,
        "peak_gb": torch.cuda.max_memory_reserved() / 1e9 if gpu else 0.0,
    }  # fmt: skip


def _note(
    path: Path | None, found: list[dict[str, Any]], way: dict[str, str], record: dict[str, float]
) -> None:
    """Print and keep the speed of one way, and write all so far."""
    found.append({**way, **record})
    speed = "{dialogues_per_second:.2f} dialogues/s, {tokens_per_second:.0f} tokens/s"
    print(f"{way['model']}, {way['way']}, {way['dtype']}: {record['dialogues']} dialogues in "
          f"{record['seconds']:.1f} s, {speed.format(**record)}", flush=True)  # fmt: skip
    if path:
        with whole_file(path) as file:
            json.dump(found, file, indent=1)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/smollm2_samsum.yml"))
    parser.add_argument("--dialogues", type=int, default=40, help="0: all of the test split")
    parser.add_argument("--models", default="base,tuned")
    parser.add_argument("--dtype", default="auto", help="of ours: auto, bfloat16, float32, several")
    parser.add_argument("--plain", default="float32", help="of the plain way, one or several")
    parser.add_argument("--plain-seconds", type=float, help="then the plain way ends")
    parser.add_argument("--output", type=Path, help="a JSON file of the figures too")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
