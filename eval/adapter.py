"""Which adapter a recipe is evaluated, used, merged or published with, and how it was trained.

Every command that loads an adapter asks `find_adapter`. Without `--adapter` the adapter must be
what this very recipe trains; with it, any adapter of the same base model and the same prompt.
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
# Where a run is stored, how it is watched and how it is evaluated afterwards: none of it shapes
# the weights. Everything else does, or may.
WITHOUT_EFFECT = (
    r"axolotl_config_path|output_dir|dataset_prepared_path|strict|save_total_limit|logging_steps"
    r"|resume_from_checkpoint|auto_resume_from_checkpoints|dataset_num_proc|use_tensorboard"
    r"|use_(wandb|mlflow|comet|trackio|swanlab)"
    r"|(wandb|mlflow|hf_mlflow|comet|trackio|swanlab|hub|profiler)_.*"
)
# Keys that choose when to evaluate and save: they shape the weights only where training keeps its
# best checkpoint or stops early.
CHECKPOINTING = r"(eval|save)s?_.*|test_datasets.*|data\.validation\.jsonl|val_set_size"
# Keys that shape the prepared rows and nothing else: the same rows are the same training.
ROWS = (
    r"summarization\.(source|revision|config|(dialogue|summary)_column|turns\..*|cleaning\..*"
    r"|(train|validation|test)_rows)"
    r"|(test_)?datasets\[0\]\.path"
)
# `base_model` is compared by its weights, not by its name
NEVER = r"processes|base_model|summarization\.(decoding|rouge|language|eval_on_start).*"
PROMPT = (
    r"summarization\.(instruction|system)|chat_template.*|special_tokens.*|tokens|added_tokens_overrides.*"
    r"|tokenizer.*|eot_tokens|(test_)?datasets\[\d+\]\.(chat_template|message|field_|role).*"
)


def find_adapter(recipe: Recipe, given: Path | None = None) -> Path:
    """The folder of the adapter: `given`, or else the recipe's `output_dir`.

    Raises UserError where there is no adapter, its base model is another one, or the recipe differs
    from what the adapter was trained with. For a `given` one only base model and prompt must be the
    recipe's; `trained_otherwise` tells the other differences.
    """
    folder = given or recipe.output_dir
    train = f"accelerate launch -m axolotl.cli.train {recipe.path}"
    if given and not (folder / ADAPTER).is_file():
        raise UserError(f"--adapter {folder}: has no {ADAPTER}; name a PEFT adapter's folder")
    if not recipe.config.get("adapter") and not given:
        raise UserError(
            f"{recipe.path}: has no `adapter:`, so that training saves a whole model in {folder}; "
            f"to score it, set `base_model: {folder}` in a copy of the recipe, and run `python -m "
            "eval.run COPY --models base`"
        )
    if not (folder / ADAPTER).is_file():
        raise UserError(
            f"{folder}: no trained adapter there; train one with `{train}`, or take the "
            "base model alone: `--models base` of eval.run, `--model base` of chat.summarize"
        )
    wanted = recipe.summarization.instruction
    with reading(folder / "adapter_config.json", f"run `{train}`"):
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        trained_on = str(config["base_model_name_or_path"])
        kind, others = config.get("peft_type", "LORA"), config.get("adapters")
    if others:  # X-LoRA: PEFT would fetch them by the names in this file
        raise UserError(
            f"{folder / 'adapter_config.json'}: `adapters` of {kind} names other folders or hub "
            f"repositories, which are not loaded; name one LoRA adapter, or run `{train}`"
        )

    base_model = str(recipe.config["base_model"])
    same: bool | None = Path(trained_on) in (Path(base_model), Path(base_model).resolve())
    if given and not same:
        same = same_weights(trained_on, base_model, recipe.config.get("revision_of_model"))
        if same is None:
            print(
                f"note: {folder} was trained on {trained_on}, which is not here to be compared "
                f"with {base_model}; only the shapes of its weights are checked"
            )
    if same is False:
        raise UserError(
            f"{folder}: the adapter was trained on {trained_on}, but the recipe's base_model is "
            f"{base_model}; set the right one, or train with `{train}`"
        )
    end = read_record(folder / TRAINED_WITH, TrainedWith)
    learnt = end.instruction if end else wanted
    if end and finished(folder) is None:
        raise UserError(
            f"{folder}: {ADAPTER} is not the one that its training ended with; put that one back, "
            f"or train again with `{train} {TRAIN_AGAIN}`"
        )
    changed = trained_otherwise(recipe, folder) or {}
    if learnt != wanted:
        changed.setdefault("summarization.instruction", "summarization.instruction was another")
    if end and end.template and end.template != (template_hash(recipe) or end.template):
        changed["chat_template"] = "the text of the chat template was another"
    if given:
        changed = {key: text for key, text in changed.items() if re.fullmatch(PROMPT, key)}
    if changed:
        words, own = listed(list(changed.values())), folder / RECIPE
        fix = f"use {own}, the recipe as it was trained" if own.is_file() else "write that into it"
        if given:
            raise UserError(f"--adapter {folder}: was trained on another prompt: {words}; {fix}")
        raise UserError(
            f"{folder}: was not trained as {recipe.path} says: {words}; {fix}, train again into "
            "another output_dir, or evaluate the adapter as it is: "
            f"`python -m eval.run {recipe.path} --adapter {folder}`"
        )
    return folder


def is_plain_lora(folder: Path) -> bool:
    """Whether the adapter is two matrices for each of some inner layers, added to the base weights.

    Not so: DoRA, PiSSA and the like (they change the base weights too), whole or added matrices,
    and whatever changes an embedding. vLLM takes only plain ones as they are.
    """
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    others = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters")
    targets = config.get("target_modules") or []
    ends = [name for name in targets if name.rpartition(".")[2] in ("lm_head", "embed_tokens")]
    return (
        isinstance(targets, list)
        and not (ends or any(config.get(name) for name in others))
        and config.get("init_lora_weights", True) in (True, False, "gaussian")
    )


def merged_folder(recipe: Recipe) -> Path:
    """Where `scripts.merge` writes the merged model; raises UserError where there is none."""
    folder = recipe.output_dir / "merged"
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no merged model; run `python -m scripts.merge {recipe.path}`")
    return folder


def shown(folder: Path) -> str:
    """How records name an adapter's folder: without absolute paths of this machine."""
    return folder.name if folder.is_absolute() else str(folder)


Record = TypeVar("Record", bound=BaseModel)


class RunRecord(Sealed):
    """`run.json`: what a training started with."""

    settings: dict[str, Any]  # flat, see `settings_of`
    precision: dict[str, Any] = {}  # what became of `bf16: auto`


class TrainedWith(Sealed):
    """`trained_with.json`, beside a final adapter: its hash, and what its training took."""

    instruction: str
    template: str | None = None  # the hash of the chat template
    steps: int
    adapter: str
    log: str | None = None  # the hash of trainer_state.json
    machine: str | None = None
    peak_memory_gb: float | None = None


def trained_otherwise(recipe: Recipe, folder: Path) -> dict[str, str] | None:
    """How the recipe differs from what the adapter in `folder` was trained with; None: unknown.

    By key, `lora_r was 16 and is 64`; only keys that shape the weights. The prepared rows count
    where they exist. Raises UserError where `run.json` is damaged.
    """
    record = run_of(folder)
    if record is None:
        return None
    before = record.settings
    files = {name: str(before.get(f"data.{name}")) for name in DATA}
    prepared: dict[str, str] = {}  # stays empty on a machine that only uses an adapter
    with suppress(OSError, ValueError, LookupError, TypeError):
        manifest = json.loads((recipe.data_dir / "manifest.json").read_text("utf-8"))
        prepared = {name: str(manifest["files"][name]) for name in DATA}
    now = settings_of(recipe.config, files | prepared, before.get("processes", 1))
    ignored = [NEVER]
    if not any(settings.get(key) for settings in (before, now) for key in CHOOSES_CHECKPOINT):
        ignored.append(CHECKPOINTING)
    if prepared and now["data.train.jsonl"] == before.get("data.train.jsonl"):
        ignored.append(ROWS)
    found = differences(before, now)
    return {key: text for key, text in found.items() if not re.fullmatch("|".join(ignored), key)}


def same_weights(one: str, other: str, revision: str | None = None) -> bool | None:
    """Whether two names of a base model mean the same weights; None where that cannot be known.

    A folder is compared with a folder, or with what the hub's cache holds, file by file. Else the
    last parts of the two names tell that they are two models, and never that they are one.
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
    alike = Path(one).name.lower() == Path(other).name.lower()
    both = all(re.fullmatch(HUB_ID, name) for name in (one, other))  # `models/x` may be a folder
    return False if both and not alike else None


def settings_of(config: Mapping[str, Any], files: dict[str, str], processes: int) -> dict[str, Any]:
    """Flat `{"dotted.key": value}` of all in a recipe and its data that shapes the weights.

    `config`: the recipe with the command line's overrides, before Axolotl adds its defaults;
    `files`: hashes of the prepared files by name.
    """
    block = dict(config["summarization"])
    for key in ("license", "metrics", "bertscore", "publish"):
        block.pop(key, None)
    if not (block.get("training_rouge") or {}).get("dialogues"):
        for key in ("training_rouge", "decoding", "rouge", "language"):
            block.pop(key, None)  # no summaries choose the checkpoint
    kept = {
        key: value
        for key, value in config.items()
        if value is not None and not re.fullmatch(WITHOUT_EFFECT, key)
    }
    found = dict(flat({**kept, "summarization": block}))
    data = {f"data.{name}": files[name] for name in DATA}
    return json.loads(json.dumps({**found, **data, "processes": processes}, default=str))


def flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Pairs of dotted key and value of all that is nested in `value`."""
    if isinstance(value, Mapping):
        parts = [(f"{name}.{key}" if name else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        parts = [(f"{name}[{number}]", item) for number, item in enumerate(value)]
    else:
        return [(name, value)]
    return [pair for key, item in parts for pair in flat(item, key)]


def run_folder(adapter: Path) -> Path:
    """The folder of the training that left an adapter, which may be a checkpoint's."""
    return adapter.parent if CHECKPOINT.fullmatch(adapter.name) else adapter


def run_of(folder: Path) -> RunRecord | None:
    """`run.json` of the training in `folder`, or of a checkpoint's; None: no such file.

    Raises UserError where the file is damaged.
    """
    own = folder / RUN
    return read_record(own if own.exists() else run_folder(folder) / RUN, RunRecord)


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """A record that a training left; None: no such file. Raises UserError where it is damaged."""
    if not path.exists():
        return None
    again = f"train again with `{TRAIN_AGAIN}` (the folder's content is set aside)"
    with reading(path, f"restore it, set another output_dir, or {again}"):
        return kind.model_validate_json(path.read_bytes())


def differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """A phrase for each key of two runs' settings that differs: `lora_r was 16 and is 64`."""
    missing = object()  # a key that is null is not one that is missing
    return {
        key: f"{key} was {_short(before.get(key))} and is {_short(now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, missing) != now.get(key, missing)
    }


def finished(folder: Path) -> int | None:
    """After how many steps the run in `folder` ended with the adapter that is there, or None."""
    with suppress(OSError, UserError):
        record = read_record(folder / TRAINED_WITH, TrainedWith)
        if record and record.adapter == sha256_of(folder / ADAPTER):
            return record.steps
    return None


def listed(changed: list[str]) -> str:
    """The first three changes, and how many more there are."""
    return "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if changed[3:] else "")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
