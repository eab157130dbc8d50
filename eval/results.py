"""Score a results folder's predictions and write scores.json, report.md and report.html."""

import hashlib
import json
import math
import platform
import re
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from data_prep.console import say
from data_prep.errors import atomic_files, check_file
from data_prep.machine import cards, cpu_name
from data_prep.recipe import Recipe, YamlFile
from eval.adapter import (
    ADAPTER,
    RECIPE,
    TRAINED_WITH,
    WITHOUT_EFFECT,
    TrainedWith,
    flatten,
    read_record,
    run_folder,
    shown,
    trained_otherwise,
)
from eval.analysis import analyse
from eval.baselines import Corpus, System, add_baselines
from eval.html_report import html_report
from eval.predictions import FileRecord, read_predictions
from eval.report import report, show
from eval.scores import SUM, EvaluatedAdapter, Training
from eval.signature import commit, generation_fields
from eval.trackers import log_scores

PACKAGES = ("axolotl", "transformers", "peft", "torch", "rouge_score", "numpy")
CURVES = ("loss", "eval_loss", "learning_rate", "tokens/train_per_sec_per_gpu")
NAMES = ("scores.json", "report.md", "report.html")


def write_results(
    recipe: Recipe,
    split: str,
    folder: Path,
    records: dict[str, FileRecord],
    leaked: list[str] | None,
    given: Path | None = None,
) -> None:
    """Write the three files (all or none), print the tables, and send the scores to trackers.

    `records`: the record of each model's predictions file; `leaked`: ids of the rows that are also
    in the training source, None if the manifest does not say; `given`: the folder of an adapter
    that is not in the recipe's `output_dir`.
    """
    predictions = {name: read_predictions(folder / f"predictions.{name}.jsonl") for name in records}
    first_rows = next(iter(predictions.values()))
    corpus = Corpus(
        [row.reference for row in first_rows],
        [row.dialogue for row in first_rows],
        None if leaked is None else [row.id in set(leaked) for row in first_rows],
        [row.id for row in first_rows],
    )
    systems = {
        name: System(
            [row.prediction for row in rows],
            tokens=[row.tokens for row in rows],
            stopped=[row.stopped for row in rows],
            seconds=records[name].seconds,
            fields=generation_fields(records[name].key, records[name].versions),
        )
        for name, rows in predictions.items()
    }
    adapter_folder = given or recipe.output_dir
    adapter = None
    if "tuned" in records:
        differences = trained_otherwise(recipe, adapter_folder)
        adapter = EvaluatedAdapter(
            folder=shown(adapter_folder),
            trained_otherwise=None if differences is None else list(differences.values()),
            signature="unknown" if differences is None else "+".join(differences),
        )
        if adapter.signature:
            systems["tuned"].fields["trained"] = adapter.signature
    result = analyse(
        add_baselines(systems, corpus),
        corpus,
        more=recipe.summarization.metrics,
        bertscore=recipe.summarization.bertscore,
        rouge=recipe.summarization.rouge,
        language=recipe.summarization.language,
    )
    scores = result.scores
    scores.recipe = recipe.name
    scores.base_model = recipe.config["base_model"]
    scores.source = recipe.summarization.source
    scores.split = split
    scores.adapter = adapter
    recipe_text = _recipe_text(recipe, given)
    scores.settings = _settings(recipe_text)
    scores.decoding = next(iter(records.values())).key.decoding
    scores.environment = environment()
    scores.commit = commit()
    scores.date = datetime.now(UTC).date().isoformat()
    curves = training_curves(adapter_folder) if adapter else {}
    scores.training = _training(adapter_folder) if adapter else None
    scores_json = scores.model_dump_json(indent=2) + "\n"
    with atomic_files(folder, *NAMES, SUM) as files:
        files["scores.json"].write(scores_json)
        files[SUM].write(f"{hashlib.sha256(scores_json.encode()).hexdigest()}  scores.json\n")
        files["report.md"].write(report(result))
        names = [*NAMES[:2], *(f"predictions.{name}.jsonl" for name in records)]
        files["report.html"].write(html_report(result, curves, recipe_text, names))
    say(f"written to {folder}: {', '.join([*names, NAMES[2]])}")
    show(scores)
    log_scores(recipe, scores, folder, adapter_folder)
    say(f"\nOpen {folder / 'report.html'}", "bold")


def _recipe_text(recipe: Recipe, adapter_folder: Path | None) -> str:
    """Return the text of the recipe that the adapter was trained with, or else of `recipe`."""
    saved = adapter_folder and run_folder(adapter_folder) / RECIPE
    # a symlink in a downloaded adapter could point to any file on this machine
    path = saved if saved and saved.is_file() and not saved.is_symlink() else recipe.path
    YamlFile(path)  # refuses a file that is too large
    return path.read_text("utf-8")


def _settings(recipe_text: str) -> dict[str, Any]:
    """Return the settings that `eval.compare` shows; absolute paths lose their folders."""
    config = yaml.safe_load(recipe_text)
    for key in ("license", "metrics", "bertscore", "publish"):
        config["summarization"].pop(key, None)
    hidden = rf"{WITHOUT_EFFECT}|(test_)?datasets\[\d+\]\.path|plugins"
    return {
        key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for key, value in flatten(config)
        if not re.fullmatch(hidden, key)
    }


def _training(folder: Path) -> Training:
    """Return what the records next to the adapter say, and its number of parameters."""
    training = Training()
    # from the file header; the weights are not read
    with suppress(OSError, SafetensorError), safe_open(folder / ADAPTER, "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
        training.parameters = sum(map(math.prod, shapes))
    folder = run_folder(folder)
    if record := read_record(folder / TRAINED_WITH, TrainedWith):
        training.peak_memory_gb, training.machine = record.peak_memory_gb, record.machine
        training.steps = record.steps
    for entry in _history(folder / "trainer_state.json"):
        if "train_runtime" in entry:
            training.minutes = round(entry["train_runtime"] / 60, 2)
        if "tokens/total" in entry:
            training.tokens = int(entry["tokens/total"])
    return training


def training_curves(output_dir: Path) -> dict[str, list[list[float]]]:
    """Return the logged CURVES (and generated ROUGE) by step, from `trainer_state.json`.

    Our plugin saves the whole history next to the adapter; without it, the checkpoint with the
    highest step has the history up to that step. Empty if there is no readable file.
    """
    states = [*output_dir.glob("checkpoint-*/trainer_state.json")]
    histories = [_history(state) for state in (*states, output_dir / "trainer_state.json")]
    history = max(histories, key=lambda log: (log[-1].get("step", 0) if log else -1, len(log)))
    curves: dict[str, list[list[float]]] = {}
    for entry in history:
        for name in sorted(entry) if "step" in entry else ():
            if name in CURVES or name.startswith("eval_rouge"):
                curves.setdefault(name, []).append([entry["step"], entry[name]])
    return curves


def _history(path: Path) -> list[dict[str, float]]:
    """Return the numbers that the trainer logged, without NaN and infinity (no chart has them)."""
    try:
        check_file(path)
        history = json.loads(path.read_text("utf-8"))["log_history"]
        return [
            {k: v for k, v in entry.items() if isinstance(v, (int, float)) and abs(v) < 1e18}
            for entry in history
            if isinstance(entry, dict)
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def environment(gpus: int = 0) -> dict[str, str]:
    """Return the machine and package versions, without paths or host names.

    `gpus`: how many are used, if other processes use them.
    """
    import torch

    facts = {"python": platform.python_version(), "system": platform.system()}
    facts |= {name: version(name) for name in PACKAGES}
    facts["cpu"] = cpu_name()
    if torch.cuda.is_available():
        facts["gpu"] = cards(gpus)
    return facts
