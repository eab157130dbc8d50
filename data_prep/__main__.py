"""Prepare a recipe's data for Axolotl: `python -m data_prep [RECIPE]`."""

from pathlib import Path

from data_prep.console import say
from data_prep.errors import run_cli
from data_prep.options import Options
from data_prep.recipe import DEFAULT_RECIPE, load_recipe


def main() -> None:
    """Read the recipe, prepare the data, and report what was written."""
    parser = Options(
        "data_prep",
        __doc__.partition(":")[0] + ".",
        "recipes/smollm2_samsum.yml",
        "my_recipe.yml --overwrite",
    )
    parser.add_argument("recipe", type=Path, nargs="?", default=DEFAULT_RECIPE, help="recipe file")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="also replace rows that were edited or that another recipe prepared",
    )
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    say(f"Preparing {recipe.summarization.source} for {args.recipe}", "bold")
    from data_prep.prepare import prepare

    manifest = prepare(recipe, args.overwrite)
    for split, counts in manifest.counts.items():
        notes = [f"{n} dropped: {reason}" for reason, n in counts.dropped.items()]
        if counts.references:
            meaning = "one row each" if split == "train" else "references of the same dialogues"
            notes.append(f"{counts.references} further summaries, {meaning}")
        path = recipe.data_dir / f"{split}.jsonl"
        say("; ".join([f"{path}: {counts.written:,} rows", *notes]))
    for note in manifest.notes:
        say(f"note: {note}")
    tokens = manifest.tokens
    if train := tokens.train:
        say(f"train: {train.tokens:,} tokens, {train.mean} per row, longest {train.longest}")
    else:
        say(f"no token counts, only well-known control strings neutralised: {tokens.why}")
    say(f"{recipe.data_dir / 'manifest.json'}: counts, dropped and over-long rows, hashes")


if __name__ == "__main__":
    run_cli(main)
