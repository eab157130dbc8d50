"""Merge a recipe's adapter into its base model by Axolotl's own command, and prove it equal.

    python -m scripts.merge recipes/smollm2_samsum.yml [--dialogues 64] [--split validation]

Writes `<output_dir>/merged`, whole or not at all; a folder that was merged from this very adapter
is only proved again. The proof goes to `merge_proof.json` in it: the adapter beside the base
model's weights against the merged folder loaded anew, on the split's first dialogues. The bounds,
and what they come from, are in scripts/merge_proof.py. Exit code 0 where all hold, 1 where one
does not (`"good": false`), 2 for bad input.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from data_prep.errors import UserError, run_cli, writing_to
from data_prep.prepare import check_prepared
from data_prep.prompt import PromptEncoder, read_examples
from data_prep.recipe import Recipe, load_recipe
from scripts.merged_folder import (
    CHANGED,
    PROOF,
    check_fit,
    end_token,
    merged_folder,
)
from training import run_record


def main() -> None:
    """Merge, prove, print; exit code 1 where the two are not equal."""
    args = _arguments()
    recipe = load_recipe(args.recipe)
    if args.dialogues < 2:
        raise UserError(f"--dialogues: {args.dialogues} prove nothing; use 2 or more")
    rows, data = _rows(recipe, args.split, args.dialogues)
    proof = merge(recipe, rows, data, args.dtype)
    if not proof["good"]:
        folder = recipe.output_dir / "merged"
        mend = "keep the adapter beside the base model, or merge with `merge_method: legacy`"
        if CHANGED in proof["exceeded"]:
            mend = "remove the folder, and the same command merges anew"
        exceeded = "; ".join(proof["exceeded"])
        print(f"not good: {folder}: beyond the bound: {exceeded}; {mend}", file=sys.stderr)
        sys.exit(1)


def merge(
    recipe: Recipe, rows: list[dict[str, Any]], data: dict[str, str], dtype: str | None = None
) -> dict[str, Any]:
    """Merge where that is not done yet, prove, print; what merge_proof.json says.

    `data`: the split's name and hash; `dtype` instead of the recipe's. Raises UserError for bad
    input.
    """
    from eval.adapter import find_adapter
    from eval.generate import resolve
    from scripts.merge_proof import prove, tables

    adapter = find_adapter(recipe)
    check_fit(recipe, adapter)
    encoder = PromptEncoder(recipe)
    encoder.check_neutral(rows)
    with writing_to(recipe.output_dir):
        lock = run_record.lock(recipe.output_dir)
    with lock:
        folder, was_there = merged_folder(recipe, adapter, encoder, end_token(encoder, rows[0]))
        print(f"{folder}: {'already merged from this adapter' if was_there else 'merged'}")
        decoding = recipe.summarization.decoding
        asked = {"engine": "hf", "do_sample": False, "dtype": dtype or decoding.dtype}
        decoding = decoding.model_copy(update=asked)
        proof, found = prove(recipe, resolve(decoding), rows, adapter, folder, data)
    print(tables(proof, found))
    print(f"{folder / PROOF}: the same, with the signatures")
    return proof


def _rows(recipe: Recipe, split: str, count: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The first rows of a prepared split, and its name and hash."""
    manifest = check_prepared(recipe)
    rows = read_examples(recipe.data_dir / f"{split}.jsonl")[:count]
    if len(rows) < 2:
        raise UserError(
            f"{recipe.data_dir / split}.jsonl: has {len(rows)} dialogues; choose another --split"
        )
    return rows, {"name": split, "sha256": manifest["files"][f"{split}.jsonl"]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.merge", description=__doc__.splitlines()[0]
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--dialogues", type=int, default=64, help="how many prove it (default 64)")
    parser.add_argument("--split", default="validation", choices=("train", "validation", "test"))
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), help="compute in it, not in the recipe's"
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
