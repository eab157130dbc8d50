"""Evaluate a recipe's base and tuned model: `python -m eval.run [RECIPE]`.

Writes `results/<recipe>/`: predictions.<model>.jsonl, scores.json, report.md and report.html.
"""

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_prep.errors import UserError, run_cli, writing_to
from data_prep.prepare import check_prepared
from data_prep.prompt import read_rows
from data_prep.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from eval.adapter import CHECKPOINT, shown

MODELS = ("base", "tuned")
Row = dict[str, Any]


def main() -> None:
    """Generate, score, report."""
    args = _arguments()
    recipe = load_recipe(args.recipe)
    models = [name.strip() for name in args.models.split(",")]
    if unknown := set(models) - set(MODELS):
        raise UserError(f"--models: unknown {', '.join(sorted(unknown))}; choose from base,tuned")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit: {args.limit} is no number of dialogues; use 1 or more")
    evaluate(recipe, models, args.split, args.limit, args.output, args.adapter)


def evaluate(
    recipe: Recipe,
    models: list[str],
    split: str,
    limit: int | None,
    output: Path | None,
    given: Path | None = None,
) -> None:
    """Run the evaluation and write its files; raises UserError for bad input.

    `given`: the folder of another adapter than the one in the recipe's `output_dir`.
    """
    from eval.adapter import find_adapter
    from eval.metrics import model_folder
    from eval.results import write_results

    if "embedding" in recipe.summarization.metrics:
        model_folder()  # before anything is generated
    manifest = check_prepared(recipe)
    rows = read_rows(recipe.data_dir / f"{split}.jsonl")[:limit]
    if given and "tuned" not in models:
        raise UserError("--adapter: has no effect on the base model; leave it or --models out")
    adapter = find_adapter(recipe, given) if "tuned" in models else None
    folder = output or default_output(recipe, split, limit, given)
    _check_folder(folder, recipe, given)
    data = f"{manifest['files'][f'{split}.jsonl']}[:{len(rows)}]"
    records = _predict(
        recipe, models, rows, folder, data, adapter, default_output(recipe, split, limit)
    )
    if records is None:  # another process of this run writes the report
        return
    leaked = manifest.get("leaked", {}).get(split)  # nothing known of the training split itself
    write_results(recipe, split, folder, records, leaked, given)


def default_output(
    recipe: Recipe, split: str, limit: int | None, given: Path | None = None
) -> Path:
    """`results/<recipe>`; a part or another split goes below it, beside the full test result.

    So does the result of a `given` adapter, under its folder's name.
    """
    folder = Path("results") / recipe.name
    if given:
        of_run = given.parent if CHECKPOINT.fullmatch(given.name) else given
        name = of_run.resolve().name
        folder /= f"adapter-{name}" if of_run == given else f"adapter-{name}-{given.name}"
    if split == "test" and limit is None:
        return folder
    return folder / (split if limit is None else f"{split}-first-{limit}")


def _check_folder(folder: Path, recipe: Recipe, given: Path | None) -> None:
    """Make the folder; refuse one that cannot be written or holds others' results.

    Others' are those of another recipe and, where an adapter is `given`, of another adapter.
    """
    scores = folder / "scores.json"
    try:
        record = json.loads(scores.read_text("utf-8")) if scores.is_file() else {}
        found = record["recipe"] if record else recipe.name
        of = (record.get("adapter") or {}).get("folder")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{scores}: is damaged ({error}); remove it or use --output") from error
    if given and of not in (None, shown(given)):
        raise UserError(f"{folder}: holds the results of the adapter {of}; choose another --output")
    if found != recipe.name:
        raise UserError(
            f"{folder}: holds the results of recipe {found}, not of {recipe.name}; choose another "
            "--output"
        )
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)


def _predict(
    recipe: Recipe,
    models: list[str],
    rows: list[Row],
    folder: Path,
    data: str,
    adapter: Path | None,
    main: Path,
) -> dict[str, dict[str, Any]] | None:
    """Make the predictions that are not there yet; the record of each, None in a second process.

    A model that is not asked for is in the report all the same where its predictions are there.
    Those of the base model are taken from `main`, the recipe's own result, where they are the same.
    """
    import torch
    from accelerate import PartialState

    from eval.adapter import find_adapter
    from eval.generate import Summarizer, resolve
    from eval.predictions import Work, copy_predictions, generate_file, made
    from eval.signature import generation_key

    processes = PartialState(cpu=not torch.cuda.is_available())  # else it knows no CPU processes
    decoding = resolve(recipe.summarization.decoding)
    records: dict[str, dict[str, Any]] = {}
    summarizer = None
    for name in MODELS:  # base first: tuned is made of its weights
        path = folder / f"predictions.{name}.jsonl"
        if name not in models:
            with suppress(UserError):
                other = find_adapter(recipe) if name == "tuned" else None
                if record := made(path, generation_key(recipe, name, decoding, data, other)):
                    records[name] = record
            continue
        of_model = adapter if name == "tuned" else None
        key = generation_key(recipe, name, decoding, data, of_model)
        record = made(path, key)
        if not record and name == "base" and folder != main and made(main / path.name, key):
            if processes.is_main_process:
                copy_predictions(main / path.name, path)
            processes.wait_for_everyone()
            record = made(path, key)
        if record:
            if processes.is_main_process:
                print(f"{path}: already made with these settings")
        else:
            summarizer = summarizer or Summarizer(recipe, decoding, rows, adapter)
            summarizer.use(name)
            work = Work(
                rows,
                recipe.summarization.instruction,
                summarizer.batches,
                summarizer.summarize,
                processes,
            )
            generate_file(path, key, work)
            record = made(path, key)
        records[name] = record or {}
    return records if processes.is_main_process else None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eval.run",
        description="Summaries of base and tuned model on a prepared split, ROUGE and a report.",
    )
    parser.add_argument("recipe", type=Path, nargs="?", default=DEFAULT_RECIPE)
    parser.add_argument("--models", default="base,tuned", help="base, tuned or both (default)")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--limit", type=int, help="only the first LIMIT dialogues")
    parser.add_argument(
        "--adapter", type=Path, help="folder of another adapter of this base model and prompt"
    )
    parser.add_argument("--output", type=Path, help="folder (default results/<recipe>)")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
