"""Evaluate a recipe's base and tuned model: `python -m eval.run [RECIPE]`.

Writes `results/<recipe>/`: predictions.<model>.jsonl, scores.json and report.md.
"""

import argparse
import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.errors import UserError, run_cli, whole_file, writing_to
from data_prep.manifest import check_prepared
from data_prep.prompt import read_rows
from data_prep.recipe import DEFAULT_RECIPE, Recipe, load_recipe

MODELS = ("base", "tuned")
METRIC = "rouge_score {version}, stemmer on, empty predictions count as 0"


def main() -> None:
    """Generate, score, report."""
    args = _arguments()
    recipe = load_recipe(args.recipe)
    models = [name.strip() for name in args.models.split(",")]
    if unknown := set(models) - set(MODELS):
        raise UserError(f"--models: unknown {', '.join(sorted(unknown))}; choose from base,tuned")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit: {args.limit} is no number of dialogues; use 1 or more")
    evaluate(recipe, models, args.split, args.limit, args.output)


def evaluate(
    recipe: Recipe, models: list[str], split: str, limit: int | None, output: Path | None
) -> dict[str, Any]:
    """Run the evaluation and return what scores.json holds; raises UserError for bad input."""
    from eval.generate import find_adapter
    from eval.report import report, table
    from eval.rouge import mean_f1, score

    manifest = check_prepared(recipe)
    rows = read_rows(recipe.data_dir / f"{split}.jsonl")[:limit]
    adapter = find_adapter(recipe) if "tuned" in models else None
    folder = output or default_output(recipe, split, limit)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    data_hash = f"{manifest['files'][f'{split}.jsonl']}[:{len(rows)}]"
    timings = _predict(recipe, models, rows, folder, data_hash, adapter)
    predictions = {name: read_rows(folder / f"predictions.{name}.jsonl") for name in models}
    scores = _head(recipe, split, data_hash, adapter)
    for name, made in predictions.items():
        per_example = score([p["prediction"] for p in made], [p["reference"] for p in made])
        scores["models"][name] = {
            **{metric: round(value, 4) for metric, value in mean_f1(per_example).items()},
            "mean_tokens": round(sum(p["tokens"] for p in made) / len(made), 2),
            "stopped": round(sum(p["stopped"] for p in made) / len(made), 4),
            **timings[name],
        }
    scores["examples"] = len(rows)
    with whole_file(folder / "scores.json") as file:
        file.write(json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
    with whole_file(folder / "report.md") as file:
        file.write(report(scores, predictions))
    print(table(scores))
    written = [f"predictions.{name}.jsonl" for name in models] + ["scores.json", "report.md"]
    print("\n".join(str(folder / name) for name in written))
    return scores


def default_output(recipe: Recipe, split: str, limit: int | None) -> Path:
    """`results/<recipe>`; a part or another split goes below it, beside the full test result."""
    folder = Path("results") / recipe.name
    if split == "test" and limit is None:
        return folder
    return folder / (split if limit is None else f"{split}-first-{limit}")


def _predict(
    recipe: Recipe,
    models: list[str],
    rows: list[dict[str, Any]],
    folder: Path,
    data_hash: str,
    adapter: Path | None,
) -> dict[str, dict[str, Any]]:
    """Make the predictions that are not there yet; return key and seconds by model."""
    from eval.predictions import generate_file, run_key, seconds_if_made

    timings: dict[str, dict[str, Any]] = {}
    summarizer = None
    for name in sorted(models):  # base first: the adapter is then put onto the same weights
        path = folder / f"predictions.{name}.jsonl"
        key = run_key(recipe, name, data_hash, adapter if name == "tuned" else None)
        seconds = seconds_if_made(path, key)
        if seconds is not None:
            print(f"{path}: already made with these settings")
        else:
            if summarizer is None:
                from eval.generate import Summarizer

                summarizer = Summarizer(recipe)
                summarizer.encoder.check_neutral(rows)
            if name == "tuned":
                summarizer.attach_adapter()
            instruction = recipe.summarization.instruction
            generate_file(path, key, rows, instruction, summarizer.summarize)
            seconds = seconds_if_made(path, key)
        timings[name] = {"key": key, "seconds": seconds}
    return timings


def _head(recipe: Recipe, split: str, data_hash: str, adapter: Path | None) -> dict[str, Any]:
    packages = ("axolotl", "transformers", "peft", "torch", "rouge_score")
    return {
        "recipe": recipe.name,
        "base_model": recipe.config["base_model"],
        "adapter": str(adapter) if adapter else None,
        "source": recipe.summarization.source,
        "split": split,
        "data": data_hash,
        "metric": METRIC.format(version=version("rouge_score")),
        "decoding": {"search": "greedy", **recipe.summarization.decoding.model_dump()},
        "commit": _commit(),
        "versions": {name: version(name) for name in packages},
        "models": {},
    }


def _commit() -> str:
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eval.run",
        description="Summaries of base and tuned model on a prepared split, ROUGE and a report.",
    )
    parser.add_argument("recipe", type=Path, nargs="?", default=DEFAULT_RECIPE)
    parser.add_argument("--models", default="base,tuned", help="base, tuned or both (default)")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--limit", type=int, help="only the first LIMIT dialogues")
    parser.add_argument("--output", type=Path, help="folder (default results/<recipe>)")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
