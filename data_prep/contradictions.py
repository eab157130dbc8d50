"""Find settings that Axolotl accepts silently but that do not work, alone or in combination.

Each function checks one group of them. Values of the wrong type are not checked here, because
data_prep/recipe.py has reported them already.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Config = dict[str, Any]
Loc = tuple[Any, ...]  # the location of a value: ("datasets", 0, "path")


@dataclass(frozen=True)
class Problem:
    """One problem at `loc`, and how to `fix` it if `what` does not say so.

    `lacks`: the missing keys that it is about. `meant`: the known key that an unknown one probably
    means. A key that is missing only because it is misspelt is one problem, not two.
    """

    loc: Loc
    what: str
    fix: str = ""
    lacks: tuple[Loc, ...] = ()
    meant: Loc | None = None


def contradictions(config: Config) -> Iterator[Problem]:
    """Yield all such problems of a recipe."""
    for check in (_ranges, _switches, _packing, _data, _no_best_checkpoint, _metric):
        yield from check(config)


# Axolotl does not limit these; outside the limits it trains nothing or nonsense, or fails late
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


def _switches(config: Config) -> Iterator[Problem]:
    adapter, four_bit = config.get("adapter"), is_on(config.get("load_in_4bit"))
    trust, all_linear = config.get("trust_remote_code"), is_on(config.get("lora_target_linear"))
    cases: list[tuple[str, Any, str, str, tuple[Loc, ...]]] = [
        ("load_in_4bit", adapter == "lora" and four_bit,
         "`adapter: lora` with `load_in_4bit: true` trains a model that is not quantised",
         "write `adapter: qlora`, or remove `load_in_4bit`", ()),
        ("adapter", adapter == "qlora" and not four_bit,
         "`adapter: qlora` without `load_in_4bit: true` is plain LoRA",
         "set `load_in_4bit: true`, or write `adapter: lora`", (("load_in_4bit",),)),
        ("lora_target_linear", all_linear and config.get("lora_target_modules"),
         "`lora_target_linear: true` adds every linear layer to `lora_target_modules`",
         "keep one of the two", ()),
        ("save_only_model", is_on(config.get("save_only_model")),
         "`save_only_model: true` leaves the optimizer out of the checkpoints, so an interrupted "
         "run cannot resume exactly", "remove it", ()),
        ("merge_lora", is_on(config.get("merge_lora")),
         "`merge_lora` is what `axolotl merge-lora` sets by itself", "remove it", ()),
        # libraries take the text `false` as true
        ("trust_remote_code", trust is not None and type(trust) is not bool,
         f"`trust_remote_code` is {trust!r}", "write true or false, without quotes", ()),
        ("output_dir", config.get("output_dir") is None, "`output_dir` is missing", "set it",
         (("output_dir",),)),
    ]  # fmt: skip
    for key, wrong, what, fix, lacks in cases:
        if wrong:
            yield Problem((key,), what, fix, lacks=lacks)


def _packing(config: Config) -> Iterator[Problem]:
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from axolotl.utils.schemas.enums import LEGACY_ATTN_FLAG_TO_IMPL

    if not is_on(config.get("sample_packing")):
        return
    legacy = [impl for flag, impl in LEGACY_ATTN_FLAG_TO_IMPL.items() if is_on(config.get(flag))]
    attention = config.get("attn_implementation") or next(iter(legacy), None)
    if attention is None:
        yield Problem(
            ("sample_packing",),
            "`sample_packing: true` without `attn_implementation` lets the dialogues of a pack "
            "attend to each other",
            "set `attn_implementation: sdpa`",
            lacks=(("attn_implementation",), *((flag,) for flag in LEGACY_ATTN_FLAG_TO_IMPL)),
        )
    elif isinstance(attention, str):
        schema = AxolotlInputConfig.model_construct(attn_implementation=attention)
        if not schema.attn_decontaminates_packing:
            yield Problem(
                ("attn_implementation",),
                f"`attn_implementation: {attention}` with `sample_packing: true` lets the dialogues"
                " of a pack attend to each other",
                "use `sdpa`, or `flash_attention_2`",
            )


# The only values that these keys may have for data_prep's files; with others Axolotl reads other
# rows, or builds prompts different from those of preflight and evaluation.
REQUIRED_VALUES = {"type": "chat_template", "ds_type": "json", "data_files": None,
                   "trust_remote_code": False}  # fmt: skip


def _data(config: Config) -> Iterator[Problem]:
    """Check that training uses only the files that data_prep writes, and no test rows."""
    unprepared = "data_prep does not prepare, clean or separate from the test dialogues"
    if config.get("pretraining_dataset"):
        what = f"`pretraining_dataset` adds rows which {unprepared}"
        fix = "put them into `summarization.source`, and remove the key"
        yield Problem(("pretraining_dataset",), what, fix)
    if config.get("push_dataset_to_hub"):  # Axolotl also reads from there, before our files
        what = f"`push_dataset_to_hub` uploads the rows, or trains on rows there which {unprepared}"
        yield Problem(("push_dataset_to_hub",), what, "remove it")
    paths: dict[str, list[Path | None]] = {}
    for key in ("datasets", "test_datasets"):
        sets = config.get(key)
        blocks = sets if isinstance(sets, list) else []
        values = [block.get("path") if isinstance(block, dict) else None for block in blocks]
        paths[key] = [Path(path) if isinstance(path, str) else None for path in values]
        for block in blocks[:1] if isinstance(next(iter(blocks), None), dict) else []:
            for name, required in REQUIRED_VALUES.items():
                if block.get(name) in (required, None) or (name == "type" and config.get("rl")):
                    continue
                fix = f"write `{name}: {required}`" if name.endswith("type") else "remove it"
                what = f"`{key}[0].{name}` is {block[name]}, but these rows are data_prep's JSON"
                inner_keys = block[name] if isinstance(block[name], dict) else {}
                lacks = tuple((key, 0, name, inner) for inner in inner_keys)  # one problem for all
                yield Problem((key, 0, name), what, fix, lacks=lacks)
    if config.get("default_system_message"):
        yield Problem(
            ("default_system_message",),
            "`default_system_message` has no effect on prompts of `type: chat_template`",
            "remove it, and set `summarization.system`",
        )
    folder = None
    for key, split in (("datasets", "train"), ("test_datasets", "validation")):
        loc = (key, 0, "path")
        path = next(iter(paths[key]), None)
        if path is None:
            yield Problem(loc, f"`{key}[0].path` is missing", "set it", lacks=(loc,))
            continue
        folder = folder or path.parent
        if path.name != f"{split}.jsonl" or path.parent != folder:
            yield Problem(
                loc,
                f"`{key}[0].path` is {path}",
                f"data_prep writes {split}.jsonl, and both files into the same folder",
            )
    for key, entries in paths.items():
        for index, path in list(enumerate(entries))[1:]:
            why = unprepared
            fix = "put its rows into `summarization.source`, and remove the entry"
            if key == "datasets" and path and path in paths["test_datasets"]:
                why = "is in `test_datasets` too"
                fix = "a model must not be tested on its training rows: remove it"
            yield Problem((key, index), f"`{key}[{index}]` is {path or 'rows'}, which {why}", fix)


# ---- the best checkpoint ----
# Axolotl turns `load_best_model_at_end` off unless evaluation and saving steps fit together, and
# passes `greater_is_better` on only if it is true (core/builders/causal.py of 0.19.0).

ROUGE_METRICS = [f"eval_rouge{kind}" for kind in ("1", "2", "L", "Lsum")]


def number(value: Any) -> float | None:
    """Return a value as a float; None if it is not a number."""
    return float(value) if isinstance(value, (int, float)) and type(value) is not bool else None


def is_on(value: Any) -> bool:
    """Return whether Axolotl reads a value as `true`, as it does with words such as `yes`."""
    return str(value).lower() in {"true", "1", "yes", "on", "y", "t"}


def _no_best_checkpoint(config: Config) -> Iterator[Problem]:
    patience = number(config.get("early_stopping_patience"))
    requested = ["load_best_model_at_end"] if is_on(config.get("load_best_model_at_end")) else []
    requested += ["early_stopping_patience"] if patience else []
    if not requested:
        return
    steps = {kind: number(config.get(f"{kind}_steps")) for kind in ("eval", "save")}
    epochs = number(config.get("num_epochs", 1.0)) or 0.0
    for kind in () if patience else steps:  # early stopping looks only at `*_steps`
        per_run = (number(config.get(f"{kind}s_per_epoch")) or 0.0) * epochs
        if per_run > 1.0:  # a fraction of all steps
            steps[kind] = 1.0 / per_run
    save, evaluate = steps["save"], steps["eval"]
    lacks = [(f"{kind}_steps",) for kind, value in steps.items() if not value]
    if not config.get("test_datasets") and not number(config.get("val_set_size")):
        why, fix = "there is no evaluation data", "set `test_datasets`"
        lacks = [("test_datasets",), ("val_set_size",)]
    elif not save or not evaluate:
        verb = "is" if len(lacks) == 1 else "are"
        why = f"{' and '.join(f'`{key}`' for (key,) in lacks)} {verb} not set"
        fix = "set `eval_steps`, and `save_steps` to a multiple of it, instead of `eval_strategy`"
        fix += " and `save_strategy`"
    elif save % evaluate:
        why = f"saving every {save:g} steps is not a multiple of evaluating every {evaluate:g}"
        fix = "set `save_steps` to a multiple of `eval_steps`"
    else:
        return
    what = f"{' and '.join(f'`{key}`' for key in requested)} would be turned off: {why}"
    yield Problem((requested[0],), what, fix, lacks=tuple(lacks))


def _metric(config: Config) -> Iterator[Problem]:
    """Check that `metric_for_best_model` exists, is used, and improves in the given direction."""
    metric, greater = config.get("metric_for_best_model"), config.get("greater_is_better")
    loc, name = ("metric_for_best_model",), f"`metric_for_best_model: {metric}`"
    used = is_on(config.get("load_best_model_at_end")) or config.get("early_stopping_patience")
    # the two schedulers that step on the metric
    used = used or config.get("lr_scheduler") in ("reduce_lr_on_plateau", "greedy")
    rouge = config.get("summarization")
    for key in ("training_rouge", "dialogues"):
        rouge = rouge.get(key) if isinstance(rouge, dict) else None
    if metric is not None and not used and config.get("save_strategy") != "best":
        yield Problem(
            loc,
            f"{name} has no effect: the last weights are kept",
            "set `load_best_model_at_end: true`, or remove it",
            lacks=(("load_best_model_at_end",), ("early_stopping_patience",)),
        )
    elif isinstance(metric, str) and "rouge" in metric.lower():
        if f"eval_{metric.removeprefix('eval_')}" not in ROUGE_METRICS:
            yield Problem(loc, f"{name} is unknown", f"use one of {', '.join(ROUGE_METRICS)}")
        elif not rouge:
            rouge_loc = ("summarization", "training_rouge")
            yield Problem(
                loc,
                f"{name} is never computed: `summarization.training_rouge.dialogues` is 0",
                "set it, for instance to 100",
                lacks=(rouge_loc, (*rouge_loc, "dialogues")),
            )
    metric, loc = metric or "loss", ("greater_is_better",)
    # Axolotl passes `true` on, and drops `false`
    if isinstance(metric, str) and metric.endswith("loss") and greater is True:
        what = f"`greater_is_better: true` would keep the checkpoint with the highest {metric}"
        yield Problem(loc, what, "remove it")
    elif isinstance(metric, str) and not metric.endswith("loss") and greater is False:
        what = f"`greater_is_better: false` is dropped by Axolotl: a higher {metric} still wins"
        fix = "remove it" if "rouge" in metric else "choose a metric for which higher is better"
        yield Problem(loc, what, fix)
