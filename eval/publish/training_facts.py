"""What the card says of a training: its settings, and what was measured of it.

Use: `settings_rows(recipe.config, run)` and `training_rows(state, trained, scores)`; rows of two
cells.
"""

from typing import Any

NOT_MEASURED = "not measured"
Data = dict[str, Any]
Rows = list[tuple[str, str]]


def settings_rows(config: Data, run: Data) -> Rows:
    """The settings that shape the weights; those that the recipe leaves to Axolotl are left out."""
    named = {
        "adapter": "adapter",
        "lora_r": "rank",
        "lora_alpha": "alpha",
        "lora_dropout": "dropout",
        "lora_target_modules": "target modules",
        "lora_target_linear": "all linear layers",
        "learning_rate": "learning rate",
        "lr_scheduler": "schedule",
        "warmup_ratio": "warm-up ratio",
        "warmup_steps": "warm-up steps",
        "optimizer": "optimiser",
        "weight_decay": "weight decay",
        "max_grad_norm": "largest gradient norm",
        "num_epochs": "epochs",
        "max_steps": "most steps",
        "micro_batch_size": "batch of a process",
        "gradient_accumulation_steps": "accumulated batches",
        "sequence_len": "longest row, tokens",
        "sample_packing": "packing",
        "seed": "seed",
    }
    rows = [(title, _shown(config[key])) for key, title in named.items() if key in config]
    if processes := run.get("settings", {}).get("processes"):
        rows.append(("processes", str(processes)))
    return [*rows, ("precision", _precision(config, run.get("precision", {})))]


def training_rows(state: Data, trained: Data, scores: Data) -> Rows:
    """What training and evaluation recorded; `not measured` where they did not."""
    history = [entry for entry in state.get("log_history", []) if isinstance(entry, dict)]
    runtime, memory = _last(history, "train_runtime"), trained.get("peak_memory_gb")
    losses = (_last(history, "train_loss"), _last(history, "eval_loss"))
    seconds = [scores["systems"][name]["seconds"] for name in ("base", "tuned")]
    machine = scores["environment"]
    return [
        ("steps", str(state["global_step"]) if "global_step" in state else "not recorded"),
        ("mean training loss", _number(losses[0], ".3f", "not recorded")),
        ("last validation loss", _number(losses[1], ".3f", "not recorded")),
        ("training time, since its last start", _minutes(runtime)),
        ("peak memory of training", f"{memory:.1f} GB" if memory else NOT_MEASURED),
        ("energy", NOT_MEASURED),
        ("machine of the training", trained.get("machine", "not recorded")),
        (
            "generation of the test summaries, all processes",
            ", ".join(map(_minutes, seconds)) + " (base, tuned)",
        ),
        ("machine of the evaluation", machine.get("gpu") or machine.get("cpu") or NOT_MEASURED),
    ]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _precision(config: Data, taken: Data) -> str:
    """As training took it, or as the recipe asks for it."""
    asked = {name: taken.get(name, config.get(name)) for name in ("bf16", "fp16")}
    words = next((name for name, value in asked.items() if value is True), "fp32")
    if asked["bf16"] == "auto":
        words = "chosen by the machine (bf16: auto)"
    quantised = [key for key in ("load_in_4bit", "load_in_8bit") if config.get(key)]
    return ", ".join([words, *quantised])


def _last(history: list[Data], name: str) -> float | None:
    found = [entry[name] for entry in history if isinstance(entry.get(name), (int, float))]
    return found[-1] if found else None


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return NOT_MEASURED
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _number(value: float | None, form: str, missing: str) -> str:
    return missing if value is None else format(value, form)
