"""Settings that Axolotl takes without a word and that do not do what they say, or not together.

Each function looks at one of them. A value of the wrong type is not looked at here: the walk along
the schema has named it already.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.strict.best_checkpoint import best_checkpoint_problems, is_on, number
from data_prep.strict.yaml_lines import Problem

Config = dict[str, Any]


def contradictions(config: Config) -> Iterator[Problem]:
    """Every one of them in a recipe."""
    for look in (
        _ranges, _quantisation, _packing, _lora_targets, _resuming, _paths, _own_test_rows,
    ):  # fmt: skip
        yield from look(config)
    yield from best_checkpoint_problems(config)


# Axolotl sets no limits here; beyond these it trains nothing, or nonsense, or fails late
RANGES = [
    (("micro_batch_size", "gradient_accumulation_steps", "sequence_len", "lora_r"),
     lambda value: value >= 1, "it must be at least 1"),
    (("learning_rate", "num_epochs", "lora_alpha"),
     lambda value: 0 < value < float("inf"), "it must be above 0"),
    (("lora_dropout",), lambda value: 0 <= value < 1, "it must be at least 0 and below 1"),
]  # fmt: skip


def _ranges(config: Config) -> Iterator[Problem]:
    for keys, fits, mend in RANGES:
        for key in keys:
            value = number(config.get(key))
            if value is not None and not fits(value):
                yield Problem((key,), f"`{key}` is {config[key]}", mend)


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
            "that was interrupted cannot go on as it was",
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
