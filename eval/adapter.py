"""Find the adapter to evaluate, use, merge or publish, and check how it was trained.

Every command that loads an adapter calls `find_adapter`. Without `--adapter`, the adapter must be
the one that this recipe trains; with it, any adapter with the same base model and prompt will do.
"""

import filecmp
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from data_prep.errors import UserError, reading
from data_prep.hub import snapshot
from data_prep.prompt import template_hash
from data_prep.recipe import Recipe
from data_prep.settings import HUB_ID
from data_prep.sources import Sealed, sha256_of

RUN = "run.json"
RECIPE = "recipe.yml"
TRAINED_WITH = "trained_with.json"
CHECKPOINT = re.compile(r"checkpoint-\d+")
ADAPTER = "adapter_model.safetensors"
DATA = ("train.jsonl", "validation.jsonl")
CHOOSES_CHECKPOINT = ("load_best_model_at_end", "early_stopping_patience")
TRAIN_AGAIN = "--auto_resume_from_checkpoints false"
# Keys for storage, logging and later evaluation: they do not affect the weights. All other keys
# do, or may.
WITHOUT_EFFECT = (
    r"axolotl_config_path|output_dir|dataset_prepared_path|strict|save_total_limit|logging_steps"
    r"|resume_from_checkpoint|auto_resume_from_checkpoints|dataset_num_proc|use_tensorboard"
    r"|use_(wandb|mlflow|comet|trackio|swanlab)"
    r"|(wandb|mlflow|hf_mlflow|comet|trackio|swanlab|hub|profiler)_.*"
)
# Keys that set when to evaluate and save: they affect the weights only if training keeps its best
# checkpoint or stops early.
CHECKPOINTING = r"(eval|save)s?_.*|test_datasets.*|data\.validation\.jsonl|val_set_size"
# Keys that affect only the prepared rows: if the rows are the same, so is the training.
ROW_SETTINGS = (
    r"summarization\.(source|revision|config|(dialogue|summary)_column|turns\..*|cleaning\..*"
    r"|(train|validation|test)_rows)"
    r"|(test_)?datasets\[0\]\.path"
)
# `base_model` is compared by its weights, not by its name
NEVER_COMPARED = r"processes|base_model|summarization\.(decoding|rouge|language|eval_on_start).*"
PROMPT = (
    r"summarization\.(instruction|system)|chat_template.*|special_tokens.*|tokens|added_tokens_overrides.*"
    r"|tokenizer.*|eot_tokens|(test_)?datasets\[\d+\]\.(chat_template|message|field_|role).*"
)


def find_adapter(recipe: Recipe, given: Path | None = None) -> Path:
    """Return the adapter's folder: `given`, or else the recipe's `output_dir`.

    Raises UserError if there is no adapter, if its base model is different, or if the recipe has
    changed since the adapter was trained. A `given` adapter needs only the recipe's base model and
    prompt; `trained_otherwise` reports its other differences.
    """
    folder = given or recipe.output_dir
    train = f"accelerate launch -m axolotl.cli.train {recipe.path}"
    if given and not (folder / ADAPTER).is_file():
        raise UserError(f"--adapter {folder}: has no {ADAPTER}; give the folder of a PEFT adapter")
    if not recipe.config.get("adapter") and not given:
        raise UserError(
            f"{recipe.path}: has no `adapter:`, so training saves a full model in {folder}; "
            f"to score it, set `base_model: {folder}` in a copy of the recipe, and run `python -m "
            "eval.run COPY --models base`"
        )
    if not (folder / ADAPTER).is_file():
        raise UserError(
            f"{folder}: no trained adapter there; train one with `{train}`, or use the base "
            "model alone: `--models base` for eval.run, `--model base` for chat.summarize"
        )
    instruction = recipe.summarization.instruction
    with reading(folder / "adapter_config.json", f"run `{train}`"):
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        trained_on = str(config["base_model_name_or_path"])
        kind, adapters = config.get("peft_type", "LORA"), config.get("adapters")
    if adapters:  # X-LoRA: PEFT would download the adapters that this file lists
        raise UserError(
            f"{folder / 'adapter_config.json'}: `adapters` of {kind} lists other folders or Hub "
            f"repositories, which are not loaded; use a single LoRA adapter, or run `{train}`"
        )

    base_model = str(recipe.config["base_model"])
    same_base: bool | None = Path(trained_on) in (Path(base_model), Path(base_model).resolve())
    if given and not same_base:
        same_base = same_weights(trained_on, base_model, recipe.config.get("revision_of_model"))
        if same_base is None:
            print(
                f"note: {folder} was trained on {trained_on}, which is not available to compare "
                f"with {base_model}; only the shapes of the weights are checked"
            )
    if same_base is False:
        raise UserError(
            f"{folder}: the adapter was trained on {trained_on}, but the recipe's base_model is "
            f"{base_model}; set the right one, or train with `{train}`"
        )
    record = read_record(folder / TRAINED_WITH, TrainedWith)
    trained_instruction = record.instruction if record else instruction
    if record and finished(folder) is None:
        raise UserError(
            f"{folder}: {ADAPTER} is not the file that training saved at its end; restore that "
            f"file, or train again with `{train} {TRAIN_AGAIN}`"
        )
    changes = trained_otherwise(recipe, folder) or {}
    if trained_instruction != instruction:
        changes.setdefault("summarization.instruction", "summarization.instruction was different")
    if record and record.template and record.template != (template_hash(recipe) or record.template):
        changes["chat_template"] = "the text of the chat template was different"
    if given:
        changes = {key: text for key, text in changes.items() if re.fullmatch(PROMPT, key)}
    if changes:
        text, path = listed(list(changes.values())), folder / RECIPE
        fix = f"use {path}, the recipe it was trained with" if path.is_file() else "change it back"
        if given:
            raise UserError(
                f"--adapter {folder}: was trained with a different prompt: {text}; {fix}"
            )
        raise UserError(
            f"{folder}: was not trained with {recipe.path} as it is now: {text}; {fix}, train "
            "again with another output_dir, or evaluate this adapter as it is: "
            f"`python -m eval.run {recipe.path} --adapter {folder}`"
        )
    return folder


def is_plain_lora(folder: Path) -> bool:
    """Return whether the adapter only adds two matrices per target layer to the base weights.

    False for DoRA, PiSSA and the like (they change the base weights too), for matrices trained
    in full, for biases, for ranks or scales that differ between layers, and if an embedding is
    changed. vLLM can use only plain adapters without a merge.
    """
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    keys = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters",
            "rank_pattern", "alpha_pattern", "lora_bias")  # fmt: skip
    targets = config.get("target_modules") or []
    embeds = [name for name in targets if name.rpartition(".")[2] in ("lm_head", "embed_tokens")]
    return (
        isinstance(targets, list)
        and not (embeds or any(config.get(name) for name in keys))
        and config.get("bias", "none") == "none"
        and config.get("init_lora_weights", True) in (True, False, "gaussian")
    )


def merged_folder(recipe: Recipe) -> Path:
    """Return the folder that `scripts.merge` writes to; raises UserError if it has no model."""
    folder = recipe.output_dir / "merged"
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no merged model; run `python -m scripts.merge {recipe.path}`")
    return folder


def shown(folder: Path) -> str:
    """Return an adapter's folder as records show it: without absolute paths of this machine."""
    return folder.name if folder.is_absolute() else str(folder)


Record = TypeVar("Record", bound=BaseModel)


class RunRecord(Sealed):
    """`run.json`: the settings that a training run started with."""

    settings: dict[str, Any]  # flat, see `settings_of`
    precision: dict[str, Any] = {}  # what `bf16: auto` resolved to


class TrainedWith(Sealed):
    """`trained_with.json`, beside a final adapter: its hash, and facts about its training."""

    instruction: str
    template: str | None = None  # the hash of the chat template
    steps: int
    adapter: str
    log: str | None = None  # the hash of trainer_state.json
    machine: str | None = None
    peak_memory_gb: float | None = None


def trained_otherwise(recipe: Recipe, folder: Path) -> dict[str, str] | None:
    """Return how the recipe differs from the adapter's training in `folder`; None if unknown.

    Maps a key to `lora_r was 16 and is 64`; compares only keys that affect the weights, and the
    prepared rows if they exist. Raises UserError if `run.json` is damaged.
    """
    record = read_run_record(folder)
    if record is None:
        return None
    before = record.settings
    files = {name: str(before.get(f"data.{name}")) for name in DATA}
    prepared: dict[str, str] = {}  # stays empty on a machine that only uses an adapter
    with suppress(OSError, ValueError, LookupError, TypeError):
        manifest = json.loads((recipe.data_dir / "manifest.json").read_text("utf-8"))
        prepared = {name: str(manifest["files"][name]) for name in DATA}
    now = settings_of(recipe.config, files | prepared, before.get("processes", 1))
    ignored = [NEVER_COMPARED]
    if not any(settings.get(key) for settings in (before, now) for key in CHOOSES_CHECKPOINT):
        ignored.append(CHECKPOINTING)
    if prepared and now["data.train.jsonl"] == before.get("data.train.jsonl"):
        ignored.append(ROW_SETTINGS)
    changes = differences(before, now)
    return {key: text for key, text in changes.items() if not re.fullmatch("|".join(ignored), key)}


def same_weights(one: str, other: str, revision: str | None = None) -> bool | None:
    """Return whether two base model names mean the same weights; None if that is unknown.

    Local folders and models in the Hub's cache are compared file by file. Otherwise, Hub ids with
    different last parts are different models; the same last part proves nothing.
    """
    weights = []
    for name in (one, other):
        folder = Path(name) if Path(name).is_dir() else None
        folder = folder or snapshot(name, {"revision_of_model": revision})
        if folder:
            weights.append(sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")))
    if len(weights) == 2:
        if not all(weights):
            return None
        first, second = ({path.name: path for path in paths} for paths in weights)
        return first.keys() == second.keys() and all(
            filecmp.cmp(first[name], second[name], shallow=False) for name in first
        )
    same_name = Path(one).name.lower() == Path(other).name.lower()
    hub_ids = all(re.fullmatch(HUB_ID, name) for name in (one, other))  # `models/x` may be a folder
    return False if hub_ids and not same_name else None


def settings_of(config: Mapping[str, Any], files: dict[str, str], processes: int) -> dict[str, Any]:
    """Return what in a recipe and its data affects the weights, as `{"dotted.key": value}`.

    `config`: the recipe with command-line overrides, before Axolotl adds its defaults; `files`:
    hashes of the prepared files by name.
    """
    block = dict(config["summarization"])
    for key in ("license", "metrics", "bertscore", "publish"):
        block.pop(key, None)
    if not (block.get("training_rouge") or {}).get("dialogues"):
        for key in ("training_rouge", "decoding", "rouge", "language"):
            block.pop(key, None)  # no summaries are generated to choose the checkpoint
    with_effect = {
        key: value
        for key, value in config.items()
        if value is not None and not re.fullmatch(WITHOUT_EFFECT, key)
    }
    settings = dict(flatten({**with_effect, "summarization": block}))
    data = {f"data.{name}": files[name] for name in DATA}
    return json.loads(json.dumps({**settings, **data, "processes": processes}, default=str))


def flatten(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Return (dotted key, value) pairs of everything nested in `value`."""
    if isinstance(value, Mapping):
        parts = [(f"{name}.{key}" if name else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        parts = [(f"{name}[{number}]", item) for number, item in enumerate(value)]
    else:
        return [(name, value)]
    return [pair for key, item in parts for pair in flatten(item, key)]


def run_folder(adapter: Path) -> Path:
    """Return the folder of the training run that saved `adapter`, which may be a checkpoint."""
    return adapter.parent if CHECKPOINT.fullmatch(adapter.name) else adapter


def read_run_record(folder: Path) -> RunRecord | None:
    """Read `run.json` of the training in `folder`, a run's or a checkpoint's; None if missing.

    Raises UserError if the file is damaged.
    """
    path = folder / RUN
    return read_record(path if path.exists() else run_folder(folder) / RUN, RunRecord)


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """Read a record that training saved; None if missing. Raises UserError if it is damaged."""
    if not path.exists():
        return None
    fix = f"train again with `{TRAIN_AGAIN}` (the folder's content is set aside)"
    with reading(path, f"restore it, set another output_dir, or {fix}"):
        return kind.model_validate_json(path.read_bytes())


def differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Return a phrase for each key that differs between two runs: `lora_r was 16 and is 64`."""
    missing = object()  # distinguishes a missing key from a null one
    return {
        key: f"{key} was {_short(before.get(key))} and is {_short(now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, missing) != now.get(key, missing)
    }


def finished(folder: Path) -> int | None:
    """Return the steps of the finished run that saved the adapter in `folder`, or None."""
    with suppress(OSError, UserError):
        record = read_record(folder / TRAINED_WITH, TrainedWith)
        if record and record.adapter == sha256_of(folder / ADAPTER):
            return record.steps
    return None


def listed(changed: list[str]) -> str:
    """Join the first three changes, and say how many more there are."""
    return "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if changed[3:] else "")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
