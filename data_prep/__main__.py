"""Prepare a recipe's data for Axolotl: `python -m data_prep [RECIPE]`."""

import argparse
from pathlib import Path

from data_prep.errors import printable, run_cli
from data_prep.recipe import DEFAULT_RECIPE, load_recipe


def main() -> None:
    """Read the recipe, prepare the data, and say what was written."""
    parser = argparse.ArgumentParser(prog="python -m data_prep", description=__doc__)
    parser.add_argument("recipe", type=Path, nargs="?", default=DEFAULT_RECIPE)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="also rows that were edited, or that another recipe prepared",
    )
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    from data_prep.prepare import prepare

    manifest = prepare(recipe, args.overwrite)
    for split, counts in manifest.counts.items():
        notes = [f"{n} dropped: {reason}" for reason, n in counts.dropped.items()]
        if counts.references:
            of = "a row each" if split == "train" else "references of the same dialogues"
            notes.append(f"{counts.references} further summaries, {of}")
        path = recipe.data_dir / f"{split}.jsonl"
        print("; ".join([f"{path}: {counts.written} rows", *notes]))
    for note in manifest.notes:
        print(f"note: {printable(note)}")
    tokens = manifest.tokens
    if train := tokens.train:
        print(f"train: {train.tokens} tokens, {train.mean} a row, longest {train.longest}")
    else:
        print(f"no token counts, and only well-known control strings neutralised: {tokens.why}")
    print(f"{recipe.data_dir / 'manifest.json'}: counts, dropped and over-long rows, hashes")


if __name__ == "__main__":
    run_cli(main)
