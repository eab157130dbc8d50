"""Evaluate a recipe's base and tuned models: `python -m eval.run [RECIPE]`.

Writes `results/<recipe>/`: predictions.<model>.jsonl, scores.json, report.md and report.html.
"""

import argparse
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from data_prep.console import Bar, say, verbose
from data_prep.errors import UserError, check_outputs, run_cli, writing_to
from data_prep.machine import free_memory
from data_prep.options import Options
from data_prep.prepare import check_prepared
from data_prep.prompt import Example, read_examples, template_note
from data_prep.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from data_prep.sources import sha256_of
from eval.adapter import find_adapter, merged_folder, run_folder, shown
from eval.predictions import FileRecord, copy_predictions, finished_record, key_file
from eval.scores import SUM, Scores

SCORES = "scores.json"
MODELS = ("base", "tuned", "merged")


def main() -> None:
    """Generate summaries, score them and write the report."""
    args = _arguments()
    recipe = load_recipe(args.recipe)
    models = [name.strip() for name in args.models.replace("both", "base,tuned").split(",")]
    if unknown := set(models) - set(MODELS):
        raise UserError(
            f"--models: unknown {', '.join(sorted(unknown))}; choose from {','.join(MODELS)}, both"
        )
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit: {args.limit} is not a number of dialogues; use 1 or more")
    evaluate(recipe, models, args.split, args.limit, args.output, args.adapter)


def evaluate(
    recipe: Recipe,
    models: list[str],
    split: str,
    limit: int | None,
    output: Path | None,
    given: Path | None = None,
) -> None:
    """Run the evaluation and write its files; raise UserError for bad input.

    `given`: the folder of an adapter that is not in the recipe's `output_dir`.
    """
    from eval.metrics import check_bertscore, model_folder
    from eval.results import NAMES, write_results

    # report a missing model before generating anything
    if "embedding" in recipe.summarization.metrics:
        model_folder()
    if "bertscore" in recipe.summarization.metrics:
        check_bertscore(recipe.summarization.bertscore)
    manifest = check_prepared(recipe)
    path = recipe.data_dir / f"{split}.jsonl"
    examples = read_examples(path)[:limit]
    if sha256_of(path) != manifest.files[path.name]:
        raise UserError(f"{path}: was replaced while it was read; run the same command again")
    if given and "tuned" not in models:
        raise UserError("--adapter: has no effect without the tuned model; remove it or --models")
    data = f"{manifest.files[path.name]}[:{len(examples)}]"
    folder = output or default_output(recipe, split, limit, given)
    adapter = find_adapter(recipe, given) if "tuned" in models else None
    if "merged" in models:
        merged_folder(recipe)
    names = [*NAMES, SUM, *(f"predictions.{name}.jsonl" for name in models)]
    check_outputs(*(folder / name for name in names))
    _check_folder(folder, recipe, given)
    own_result = default_output(recipe, split, limit)
    records = _predict(recipe, models, split, examples, data, folder, own_result, adapter)
    if records is not None:  # None: the main process writes the report
        leaked = manifest.leaked.get(split)  # None for the training split itself
        with Bar("scoring"):
            write_results(recipe, split, folder, records, leaked, given)


def default_output(
    recipe: Recipe, split: str, limit: int | None, given: Path | None = None
) -> Path:
    """Return `results/<recipe>`, or a folder inside it for another split or part of a split.

    The results of a `given` adapter also go inside it, under the name of the adapter's folder.
    """
    folder = Path("results") / recipe.name
    if given:
        run_path = run_folder(given)
        name = run_path.resolve().name
        folder /= f"adapter-{name}" if run_path == given else f"adapter-{name}-{given.name}"
    if split == "test" and limit is None:
        return folder
    return folder / (split if limit is None else f"{split}-first-{limit}")


def _check_folder(folder: Path, recipe: Recipe, adapter: Path | None) -> None:
    """Create the folder; raise UserError if not writable or if it has another recipe's results.

    With an `adapter`, also if it has another adapter's results.
    """
    if (folder / SCORES).is_file():
        scores = Scores.read(folder / SCORES)
        if adapter and scores.adapter and scores.adapter.folder != shown(adapter):
            raise UserError(
                f"{folder}: holds the results of adapter {scores.adapter.folder}; choose "
                "another --output"
            )
        if scores.recipe != recipe.name:
            raise UserError(
                f"{folder}: holds the results of recipe {scores.recipe}, not of {recipe.name}; "
                "choose another --output"
            )
    files = [
        folder / name for name in ("report.html", "report.md") if not (folder / SCORES).exists()
    ]
    files += [path for path in folder.glob("predictions.*.jsonl") if not key_file(path).exists()]
    if foreign := [path for path in files if path.exists()]:
        raise UserError(f"{foreign[0]}: was not written by eval.run; choose another --output")
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # an unnamed file: is the folder writable?


def _predict(
    recipe: Recipe,
    models: list[str],
    split: str,
    examples: list[Example],
    data: str,
    folder: Path,
    own_result: Path,
    adapter: Path | None,
) -> dict[str, FileRecord] | None:
    """Generate missing predictions; return each model's record (None in the other processes).

    `data`: hash and number of the dialogues; `own_result`: the folder without `--adapter`. A model
    that was not asked for is also reported if its predictions exist. The base model's predictions
    are copied from the recipe's own result if they were generated with the same key.
    """
    import torch
    from accelerate import PartialState
    from transformers.utils.logging import disable_progress_bar

    from eval.generate import Summarizer, resolve
    from eval.predictions import generate_file
    from eval.signature import generation_key

    processes = PartialState(cpu=not torch.cuda.is_available())  # for CPU multiprocessing
    is_main = processes.is_main_process
    if not verbose():
        disable_progress_bar()  # while weights load; we show our own
    if is_main:
        dialogues = f"{len(examples):,} {split} dialogues"
        say(f"Evaluating {recipe.path} ({', '.join(models)}) on {dialogues}", "bold")
        if note := template_note(recipe):
            say(f"note: {note}")
    decoding = resolve(recipe.summarization.decoding, recipe, len(examples), adapter)
    records: dict[str, FileRecord] = {}
    summarizer = None
    for name in MODELS:  # base before tuned, which reuses its weights
        path, model_recipe, requested = folder / f"predictions.{name}.jsonl", recipe, name in models
        model_adapter = adapter if name == "tuned" else None
        try:
            if name == "tuned" and not requested:
                model_adapter = find_adapter(model_recipe)
            if name == "merged":
                model_recipe, summarizer = _merged(model_recipe), None
                free_memory()  # of the other weights
        except UserError:
            if requested:
                raise
            continue
        key = generation_key(model_recipe, name, decoding, data, model_adapter)
        if not requested:
            with suppress(UserError):
                if record := finished_record(path, key):
                    records[name] = record
            continue
        record = finished_record(path, key)
        source = own_result / path.name
        if not record and name == "base" and source != path and finished_record(source, key):
            if is_main:
                copy_predictions(source, path)
            processes.wait_for_everyone()
            record = finished_record(path, key)
        if record and is_main:
            say(f"{path}: already generated with these settings")
        if not record:
            with Bar(f"loading {name}", shown=is_main):
                summarizer = summarizer or Summarizer(model_recipe, decoding, adapter)
                summarizer.use(name)
                batches = summarizer.batches(examples)
            generate_file(path, key, examples, batches, summarizer.summarize, processes)
            record = finished_record(path, key)
        if record:
            records[name] = record
    return records if is_main else None


def _merged(recipe: Recipe) -> Recipe:
    """Return the recipe with the merged folder as base model, loaded as saved (not quantised)."""
    folder = merged_folder(recipe)
    dropped_keys = ("load_in_4bit", "load_in_8bit", "revision_of_model", "tokenizer_config")
    config = {key: value for key, value in recipe.config.items() if key not in dropped_keys}
    return replace(recipe, config={**config, "base_model": str(folder)})


def _arguments() -> argparse.Namespace:
    parser = Options(
        "eval.run", "Summarise a prepared split with the base and tuned models, and report ROUGE.",
        "recipes/smollm2_samsum.yml", "recipes/smollm2_samsum.yml --models both,merged --limit 20",
        "recipes/smollm2_samsum.yml --models tuned --split validation --output results/try "
        "--adapter outputs/smollm2_samsum/checkpoint-40",
    )  # fmt: skip
    add = parser.add_argument
    add("recipe", type=Path, nargs="?", default=DEFAULT_RECIPE, help="recipe file")
    models = "base, tuned, merged, or several separated by commas; both: base,tuned"
    add("--models", default="both", help=models)
    splits = ("train", "validation", "test")
    add("--split", default="test", choices=splits, help="split to summarise")
    add("--limit", type=int, help="only the first LIMIT dialogues (default: all)")
    add("--adapter", type=Path, help="folder of another adapter with this base model and prompt "
        "(default: the recipe's output_dir)")  # fmt: skip
    add("--output", type=Path, help="results folder (default: results/<recipe>)")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
