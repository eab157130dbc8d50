"""Settings that Axolotl silently takes and that do not do what they say, or not together.

Each function checks one of them. A value of the wrong type is not checked here: data_prep/strict.py
has named it already.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.recipe_file import Problem

Config = dict[str, Any]


def contradictions(config: Config) -> Iterator[Problem]:
    """All of them in a recipe."""
    for check in (
        _ranges, _quantisation, _packing, _lora_targets, _resuming, _paths, _own_test_rows,
        _best_checkpoint_conditions, _metric_is_used, _metric_is_computed, _direction,
    ):  # fmt: skip
        yield from check(config)


# Axolotl sets no limits here; beyond these it trains nothing, or nonsense, or fails late
RANGES = [
    (("micro_batch_size", "gradient_accumulation_steps", "sequence_len", "lora_r"),
     lambda value: value >= 1, "it must be at least 1"),
    (("learning_rate", "num_epochs", "lora_alpha"),
     lambda value: 0 < value < float("inf"), "it must be above 0"),
    (("lora_dropout",), lambda value: 0 <= value < 1, "it must be at least 0 and below 1"),
]  # fmt: skip


def _ranges(config: Config) -> Iterator[Problem]:
    for keys, fits, fix in RANGES:
        for key in keys:
            value = number(config.get(key))
            if value is not None and not fits(value):
                yield Problem((key,), f"`{key}` is {config[key]}", fix)


def _quantisation(config: Config) -> Iterator[Problem]:
    adapter, four_bit = config.get("adapter"), is_on(config.get("load_in_4bit"))
    if adapter == "lora" and four_bit:
        yield Problem(
            ("load_in_4bit",),
            "`adapter: lora` with `load_in_4bit: true` trains a model that is not quantised",
            "write `adapter: qlora`, or remove `load_in_4bit`",
        )
    if adapter == "qlora" and not four_bit:
        yield Problem(
            ("adapter",),
            "`adapter: qlora` without `load_in_4bit: true` is plain LoRA",
            "set `load_in_4bit: true`, or write `adapter: lora`",
            lacks=(("load_in_4bit",),),
        )


def _packing(config: Config) -> Iterator[Problem]:
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from axolotl.utils.schemas.enums import LEGACY_ATTN_FLAG_TO_IMPL

    if not is_on(config.get("sample_packing")):
        return
    legacy = [to for flag, to in LEGACY_ATTN_FLAG_TO_IMPL.items() if is_on(config.get(flag))]
    attention = config.get("attn_implementation") or next(iter(legacy), None)
    if attention is None:
        yield Problem(
            ("sample_packing",),
            "`sample_packing: true` without `attn_implementation` lets the dialogues of a pack see "
            "each other",
            "set `attn_implementation: sdpa`",
            lacks=(("attn_implementation",), *((flag,) for flag in LEGACY_ATTN_FLAG_TO_IMPL)),
        )
    elif isinstance(attention, str):
        schema = AxolotlInputConfig.model_construct(attn_implementation=attention)
        if not schema.attn_decontaminates_packing:
            yield Problem(
                ("attn_implementation",),
                f"`attn_implementation: {attention}` with `sample_packing: true` lets the dialogues"
                " of a pack see each other",
                "use `sdpa`, or `flash_attention_2`",
            )


def _lora_targets(config: Config) -> Iterator[Problem]:
    if is_on(config.get("lora_target_linear")) and config.get("lora_target_modules"):
        yield Problem(
            ("lora_target_linear",),
            "`lora_target_linear: true` adds every linear layer to `lora_target_modules`",
            "keep one of the two",
        )


def _resuming(config: Config) -> Iterator[Problem]:
    if is_on(config.get("save_only_model")):
        yield Problem(
            ("save_only_model",),
            "`save_only_model: true` leaves the optimizer out of the checkpoints, so that a run "
            "that was interrupted cannot resume as it was",
            "remove it",
        )


def _paths(config: Config) -> Iterator[Problem]:
    """What data preparation and evaluation need, and where data_prep writes it."""
    if config.get("output_dir") is None:
        what = "`output_dir` is missing"
        yield Problem(("output_dir",), what, "set it", lacks=(("output_dir",),))
    folder = None
    for key, split in (("datasets", "train"), ("test_datasets", "validation")):
        loc = (key, 0, "path")
        try:
            path = Path(config[key][0]["path"])
        except (KeyError, IndexError, TypeError):
            yield Problem(loc, f"`{key}[0].path` is missing", "set it", lacks=(loc,))
            continue
        folder = folder or path.parent
        if path.name != f"{split}.jsonl" or path.parent != folder:
            yield Problem(
                loc,
                f"`{key}[0].path` is {path}",
                f"data_prep writes {split}.jsonl, both sets into one folder",
            )


def _own_test_rows(config: Config) -> Iterator[Problem]:
    tests = [d.get("path") for d in _blocks(config, "test_datasets") if d.get("path")]
    for index, dataset in enumerate(_blocks(config, "datasets")):
        if index > 0 and dataset.get("path") in tests:  # the first is checked with the paths
            yield Problem(
                ("datasets", index, "path"),
                f"`datasets[{index}].path` is {dataset['path']}, which is in `test_datasets` too",
                "a model must not be tested on what it learns: remove it",
            )


def _blocks(config: Config, key: str) -> list[Config]:
    blocks = config.get(key)
    return blocks if isinstance(blocks, list) and all(isinstance(b, dict) for b in blocks) else []


# ---- the best checkpoint ----
# Axolotl leaves `load_best_model_at_end` on only where evaluation and saving fit together, and
# passes `greater_is_better` on only where it is true (core/builders/causal.py of 0.19.0).

GENERATED = [f"eval_rouge{kind}" for kind in ("1", "2", "L", "Lsum")]


def number(value: Any) -> float | None:
    """A value as a number; None where it is none."""
    return float(value) if isinstance(value, (int, float)) and type(value) is not bool else None


def is_on(value: Any) -> bool:
    """Whether Axolotl takes a value as `true`: it reads some words as that too."""
    return str(value).lower() in {"true", "1", "yes", "on", "y", "t"}


def _steps(config: Config, kind: str) -> float | None:
    """As Axolotl counts them: so many an epoch are a fraction of all steps."""
    an_epoch, epochs = number(config.get(f"{kind}s_per_epoch")), config.get("num_epochs", 1.0)
    if an_epoch and number(epochs) and (fraction := 1.0 / (an_epoch * epochs)) < 1.0:
        return fraction
    return number(config.get(f"{kind}_steps"))


def _best_checkpoint_conditions(config: Config) -> Iterator[Problem]:
    wanted = [
        *(["load_best_model_at_end"] if is_on(config.get("load_best_model_at_end")) else []),
        *(["early_stopping_patience"] if number(config.get("early_stopping_patience")) else []),
    ]
    if not wanted:
        return
    if "early_stopping_patience" in wanted:  # Axolotl looks at the numbers themselves
        save, evaluate = number(config.get("save_steps")), number(config.get("eval_steps"))
    else:
        save, evaluate = _steps(config, "save"), _steps(config, "eval")
    unset = [key for key, steps in (("eval_steps", evaluate), ("save_steps", save)) if not steps]
    lacks = [(key,) for key in unset]
    if not config.get("test_datasets") and not number(config.get("val_set_size")):
        why, fix = "there are no evaluation data", "set `test_datasets`"
        lacks = [("test_datasets",), ("val_set_size",)]
    elif unset:
        why = f"{' and '.join(f'`{key}`' for key in unset)} {'is' if len(unset) == 1 else 'are'}"
        why += " not set"
        fix = "set `eval_steps`, and `save_steps` to a multiple of it, instead of `eval_strategy`"
        fix += " and `save_strategy`"
    elif save and evaluate and save % evaluate:
        why = f"saving every {save:g} steps is no multiple of evaluating every {evaluate:g}"
        fix = "set `save_steps` to a multiple of `eval_steps`"
    else:
        return
    names = " and ".join(f"`{key}`" for key in wanted)
    what = f"{names} would be turned off: {why}"
    yield Problem((wanted[0],), what, fix, lacks=tuple(lacks))


def _metric_is_used(config: Config) -> Iterator[Problem]:
    metric = config.get("metric_for_best_model")
    used = is_on(config.get("load_best_model_at_end")) or config.get("early_stopping_patience")
    # the two schedulers that step on the metric
    used = used or config.get("lr_scheduler") in ("reduce_lr_on_plateau", "greedy")
    if metric is not None and not used and config.get("save_strategy") != "best":
        yield Problem(
            ("metric_for_best_model",),
            f"`metric_for_best_model: {metric}` chooses nothing: the last weights are kept",
            "set `load_best_model_at_end: true`, or remove it",
            lacks=(("load_best_model_at_end",), ("early_stopping_patience",)),
        )


def _metric_is_computed(config: Config) -> Iterator[Problem]:
    metric, loc = config.get("metric_for_best_model"), ("metric_for_best_model",)
    if not isinstance(metric, str) or "rouge" not in metric.lower():
        return
    if metric not in GENERATED and f"eval_{metric}" not in GENERATED:
        what = f"`metric_for_best_model: {metric}` is unknown"
        yield Problem(loc, what, f"use one of {', '.join(GENERATED)}")
        return
    block = config.get("summarization")
    rouge = block.get("training_rouge") if isinstance(block, dict) else None
    if not isinstance(rouge, dict) or not rouge.get("dialogues"):
        place = ("summarization", "training_rouge")
        yield Problem(
            loc,
            f"`metric_for_best_model: {metric}` is never computed: "
            "`summarization.training_rouge.dialogues` is 0",
            "set it, to 100 for instance",
            lacks=(place, (*place, "dialogues")),
        )


def _direction(config: Config) -> Iterator[Problem]:
    """Axolotl passes `greater_is_better: true` on, and drops `false`."""
    metric, greater = config.get("metric_for_best_model") or "loss", config.get("greater_is_better")
    if not isinstance(metric, str) or type(greater) is not bool:
        return
    is_loss = metric.endswith("loss")
    if is_loss and greater:
        what = f"`greater_is_better: true` would keep the checkpoint with the highest {metric}"
        yield Problem(("greater_is_better",), what, "remove it")
    if not is_loss and not greater:
        what = f"`greater_is_better: false` is dropped by Axolotl: a higher {metric} still wins"
        fix = "remove it" if "rouge" in metric else "choose a metric of which more is better"
        yield Problem(("greater_is_better",), what, fix)
