"""Score a results folder's predictions and write scores.json, report.md and report.html."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.errors import whole_files
from data_prep.machine import cpu_name
from data_prep.recipe import Recipe
from eval.adapter import CHECKPOINT, RECIPE, shown, trained_otherwise
from eval.analysis import Analysis, analyse
from eval.baselines import Corpus, System, with_baselines
from eval.generate import Prediction
from eval.html_report import html_report
from eval.metrics import METRICS, with_similarity
from eval.predictions import FileRecord, read_predictions
from eval.report import comparison_table, report, similarity_tables, table
from eval.signature import commit, generation_fields

PACKAGES = ("axolotl", "transformers", "peft", "torch", "rouge_score", "numpy")
Curve = list[list[float]]

NAMES = ("scores.json", "report.md", "report.html")
Row = dict[str, Any]


def write_results(
    recipe: Recipe,
    split: str,
    folder: Path,
    records: dict[str, FileRecord],
    leaked: list[str] | None,
    given: Path | None = None,
) -> None:
    """Write the three files, all or none of them, and print the tables.

    `records`: key and seconds of each model's predictions file; `leaked`: ids of the rows that
    are also in the training source, None where the manifest does not tell; `given`: the folder of
    an adapter that is not the one in the recipe's `output_dir`.
    """
    made = {name: read_predictions(folder / f"predictions.{name}.jsonl") for name in records}
    rows = next(iter(made.values()))
    corpus = Corpus(
        [row.reference for row in rows],
        [row.dialogue for row in rows],
        None if leaked is None else [row.id in set(leaked) for row in rows],
    )
    systems = {name: _system(found, records[name]) for name, found in made.items()}
    adapter = _adapter(recipe, given) if "tuned" in records else None
    if adapter and adapter["signature"]:
        systems["tuned"].fields["trained"] = adapter["signature"]
    systems = with_baselines(systems, corpus)
    result = analyse(systems, corpus)
    figures = result.figures
    if "embedding" in recipe.summarization.metrics:
        figures = with_similarity(figures, systems, corpus)
    scores = {
        "recipe": recipe.name,
        "base_model": recipe.config["base_model"],
        "source": recipe.summarization.source,
        "split": split,
        **figures,
        "adapter": adapter,
        "decoding": next(iter(records.values())).key["decoding"],
        "environment": environment(),
        "commit": commit(),
    }
    examples = _examples(made, corpus, result)
    data = {
        "scores": scores,
        "examples": examples,
        "training": training_curves(given or recipe.output_dir) if adapter else None,
        "recipe_text": _recipe_text(recipe, given),
    }
    with whole_files(folder, *NAMES) as files:
        files["scores.json"].write(json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
        files["report.md"].write(report(scores, examples))
        files["report.html"].write(html_report(data))
    print(table(scores))
    if scores["comparisons"]:
        print(comparison_table(scores))
    if similarity := similarity_tables(scores):
        print("\n\n".join(similarity))
    written = [f"predictions.{name}.jsonl" for name in made] + list(NAMES)
    print("\n".join(str(folder / name) for name in written))


def _adapter(recipe: Recipe, given: Path | None) -> dict[str, Any]:
    """Which adapter is evaluated, and how it was trained otherwise than the recipe says.

    `signature`: "" for the recipe's own, else the keys that differ, or `unknown`.
    """
    folder = given or recipe.output_dir
    differs = trained_otherwise(recipe, folder)
    word = "unknown" if differs is None else "+".join(differs)
    return {
        "folder": shown(folder),
        "trained_otherwise": None if differs is None else list(differs.values()),
        "signature": word,
    }


def _recipe_text(recipe: Recipe, given: Path | None) -> str:
    """The recipe as the adapter was trained with it, where that is known."""
    if given and CHECKPOINT.fullmatch(given.name):
        given = given.parent
    own = given and given / RECIPE
    return (own if own and own.is_file() else recipe.path).read_text("utf-8")


def _system(rows: list[Prediction], record: FileRecord) -> System:
    return System(
        [row.prediction for row in rows],
        tokens=[row.tokens for row in rows],
        stopped=[row.stopped for row in rows],
        seconds=record.seconds,
        fields=generation_fields(record.key),
    )


def _examples(made: dict[str, list[Prediction]], corpus: Corpus, result: Analysis) -> list[Row]:
    """The models' outputs by example, as the reports show them."""

    def of_model(name: str, place: int) -> Row:
        row = made[name][place]
        return {
            "text": row.prediction,
            "tokens": row.tokens,
            "stopped": row.stopped,
            "f1": dict(zip(METRICS, result.f1[name][place].tolist(), strict=True)),
            "mistakes": result.mistakes[name][place],
        }

    return [
        {
            "id": row.id,
            "dialogue": row.dialogue,
            "reference": row.reference,
            "leaked": bool(corpus.leaked and corpus.leaked[place]),
            "predictions": {name: of_model(name, place) for name in made},
        }
        for place, row in enumerate(next(iter(made.values())))
    ]


def training_curves(output_dir: Path) -> dict[str, Any] | None:
    """Losses (and generated ROUGE, where training logged it) by step, from `trainer_state.json`.

    Our plugin leaves the whole history beside the adapter; else the checkpoint of the highest step
    tells it, but for what came after it. None where no readable one is left.
    """
    states = [
        *output_dir.glob("checkpoint-*/trainer_state.json"),
        output_dir / "trainer_state.json",
    ]
    histories = [found for state in states if (found := _history(state))]
    if not histories:
        return None
    history = max(histories, key=lambda entries: (entries[-1].get("step", 0), len(entries)))
    rouge = sorted({k for entry in history for k in entry if k.startswith("eval_rouge")})
    return {
        "loss": _curve(history, "loss"),
        "eval_loss": _curve(history, "eval_loss"),
        "eval_rouge": {name: _curve(history, name) for name in rouge},
    }


def environment() -> dict[str, str]:
    """Machine and packages, without any path or host name."""
    found = {"python": platform.python_version(), "system": platform.system()}
    found |= {name: version(name) for name in PACKAGES}
    found["cpu"] = cpu_name()
    import torch

    if torch.cuda.is_available():
        found["gpu"] = f"{torch.cuda.get_device_name()} x {torch.cuda.device_count()}"
    return found


def _history(path: Path) -> list[dict[str, float]]:
    try:
        history = json.loads(path.read_text("utf-8"))["log_history"]
        return [entry for entry in history if isinstance(entry, dict)]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _curve(history: list[dict[str, float]], name: str) -> Curve:
    return [[entry["step"], entry[name]] for entry in history if {name, "step"} <= entry.keys()]
