"""What a report says beside the scores: training curves, environment, the recipe's text."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.training.usage import cpu_name

PACKAGES = ("axolotl", "transformers", "peft", "torch", "rouge_score", "numpy")
Curve = list[list[float]]


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
