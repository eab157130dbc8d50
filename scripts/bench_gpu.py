"""Measure recipes on the GPUs that are here: speed, memory, and minutes of the full run.

    python -m scripts.bench_gpu                       # all variants, one call
    python -m scripts.bench_gpu --variants ours,notebook --memory-cap 40
    python -m scripts.bench_gpu --set attn_implementation=sdpa      # where flash-attn is missing
    torchrun is started by itself where there are several GPUs; --gpus 1 asks for one

Each variant is trained by Axolotl itself for some steps, on the recipe's model with random weights
(speed and memory do not depend on their values), with Mistral's real tokenizer, on rows as long as
SAMSum's. Prints a table and writes `results/bench_gpu.json`; a variant that runs out of memory
keeps its row. On a CPU, `--width 64` makes the model tiny, which exercises all of this and measures
nothing of interest.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from data_prep.errors import UserError, run_cli, whole_file
from data_prep.recipe import load_recipe
from eval.context import environment
from scripts.bench_rows import prepare_rows
from scripts.bench_variants import VARIANTS, Variant, run_variant
from scripts.random_model import save

COLUMNS = (
    ("variant", "variant"), ("tokens/s", "tokens_per_second"), ("trained/s", "trained_per_second"),
    ("rows/s", "rows_per_second"), ("s a step", "seconds_per_step"), ("allocated GB", "allocated"),
    ("reserved GB", "reserved"), ("MFU", "mfu"), ("full run", "minutes"),
    ("expected GB", "expected_gb"), ("expected min", "expected_minutes"),
)  # fmt: skip


def main() -> None:
    """Make model and rows once, run every variant, print and write what was found."""
    args = _arguments()
    names = args.variants.split(",")
    if unknown := set(names) - VARIANTS.keys():
        raise UserError(f"--variants: unknown {sorted(unknown)}; choose from {','.join(VARIANTS)}")
    if not torch.cuda.is_available() and args.width is None:
        raise UserError("no GPU is here; `--width 64` tries the benchmark on a CPU")
    also = dict(_pair(text) for text in args.set)
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        place = Path(folder)
        base_model = load_recipe(VARIANTS[names[0]].recipe).config["base_model"]
        parameters = save(base_model, place / "model", args.width)
        print(f"{base_model}: {parameters:,} random parameters", flush=True)
        found = [_measure(VARIANTS[name], place, args, also) for name in names]
    record = {"environment": environment(), "steps": args.steps, "memory_cap_gb": args.memory_cap,
              "width": args.width, "set": args.set, "variants": found}  # fmt: skip
    print(table(found))
    with whole_file(args.output) as file:
        json.dump(record, file, indent=1)
    print(f"{args.output}: the same, with the environment")


def _measure(
    variant: Variant, place: Path, args: argparse.Namespace, also: dict[str, Any]
) -> dict[str, Any]:
    recipe = load_recipe(variant.recipe)
    folder = place / variant.recipe.stem
    if not folder.exists():
        prepare_rows(recipe, place / "model", folder, args.rows)
    gpus = torch.cuda.device_count() if args.gpus is None else args.gpus
    model, cap = place / "model", args.memory_cap
    row = run_variant(variant, model, folder, args.steps, max(1, gpus), cap, also)
    said = row.get("failed") or f"{row['tokens_per_second']:,.0f} tokens/s"
    print(f"{variant.name} ({variant.what}): {said}", flush=True)
    return row


def _pair(text: str) -> tuple[str, Any]:
    """`key=value`, the value as YAML reads it."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UserError(f"--set: {text!r} is not of the form key=value")
    return key, yaml.safe_load(value)


def table(found: list[dict[str, Any]]) -> str:
    """Markdown of all variants; what a failed one has not is `-`."""
    lines = ["| " + " | ".join(head for head, _ in COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in found:
        cells = [_cell(key, row.get(key)) for _, key in COLUMNS]
        note = f" ({row['failed']})" if row.get("failed") else ""
        lines.append("| " + " | ".join([cells[0] + note, *cells[1:]]) + " |")
    ours = next((r for r in found if r["variant"] == "ours" and not r.get("failed")), None)
    notebook = next((r for r in found if r["variant"] == "notebook" and not r.get("failed")), None)
    if ours and notebook:
        times = ours["tokens_per_second"] / notebook["tokens_per_second"]
        lines.append(f"\nours: {times:.1f} times the notebook's settings in tokens/s")
    return "\n".join(lines)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key == "mfu":
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return str(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", default=",".join(VARIANTS), help="default: all of them")
    parser.add_argument("--steps", type=int, default=12, help="optimiser steps a variant")
    parser.add_argument("--rows", type=int, default=2000, help="training rows to make")
    parser.add_argument("--gpus", type=int, help="how many (default: all that are here)")
    parser.add_argument("--memory-cap", type=float, metavar="GB", help="as on a card of this size")
    parser.add_argument("--width", type=int, help="a model of this width, for a try on a CPU")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="of all variants, as attn_implementation=sdpa")  # fmt: skip
    parser.add_argument("--scratch", type=Path, help="where 15 GB fit (default: the temporary one)")
    parser.add_argument("--output", type=Path, default=Path("results/bench_gpu.json"))
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
