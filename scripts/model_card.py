"""The model card of a published adapter or merged model, written from the records of its run.

Use: `model_card(read_records(recipe), names)`. Classes of huggingface_hub write metadata and
evaluation results in the Hub's format.
"""

import json
import re
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from psutil import virtual_memory
from pydantic import BaseModel

import data_prep
from chat.page import FREE, Pair
from data_prep.errors import UserError, reading
from data_prep.hub import snapshot
from data_prep.prepare import Manifest, check_prepared
from data_prep.prompt import read_examples
from data_prep.recipe import Recipe
from data_prep.settings import HUB_ID, Decoding
from data_prep.sources import sha256_of
from eval.adapter import (
    ADAPTER,
    RUN,
    TRAIN_AGAIN,
    TRAINED_WITH,
    RunRecord,
    TrainedWith,
    find_adapter,
    read_record,
    read_run_record,
)
from eval.baselines import BASELINES
from eval.metrics import METRICS, SIMILARITY
from eval.predictions import matching_record, read_predictions
from eval.report import (
    ABOUT_SIMILARITY,
    HEADERS,
    comparison_table,
    conclusion,
    fenced,
    leaked_table,
    mistake_table,
    table,
)
from eval.scores import SUM, Scores
from eval.signature import adapter_hash
from eval.stats import number, verdict
from scripts.merge_proof import Proof

BASE_LICENSES = {
    "mistralai/Mistral-7B-Instruct-v0.2": "apache-2.0",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "apache-2.0",
}

# From the Hub's list: licences that dialogue datasets and models use; the rest become `other`
HUB_LICENSES = (
    r"apache-2\.0|mit|unlicense|cc0-1\.0|cc|cc-by(-nc)?(-sa)?-[234]\.0|cc-by(-nc)?-nd-[34]\.0"
    r"|bsd(-[23]-clause)?|[al]?gpl(-3\.0)?|mpl-2\.0|odc-by|odbl|pddl|gemma|llama([24]|3(\.[123])?)"
    r"|openrail(\+\+)?|(bigscience|creativeml)-openrail-m"
)


class Names(NamedTuple):
    """Hub ids and licences; `dataset` is None if the data has no Hub id."""

    base_model: str
    base_license: str
    dataset: str | None
    data_license: str
    local_base: bool
    local_data: bool

    @property
    def noncommercial(self) -> bool:
        """Whether the data's licence is named non-commercial, like the NC licences of CC."""
        words = re.findall(r"[a-z]+", self.data_license.lower())
        return "nc" in words or "noncommercial" in "".join(words)

    @property
    def license(self) -> str:
        """The card's licence: the data's if it is non-commercial, else the base model's."""
        return self.data_license.lower() if self.noncommercial else self.base_license


NOT_MEASURED, NOT_RECORDED = "not measured", "not recorded"
MACHINE_KEYS = {"engine", "dtype", "batch_tokens"}  # in `decoding`: only how it runs
# Recipe keys that influence the weights, in the card's order
SETTINGS = (
    "adapter", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules",
    "lora_target_linear", "learning_rate", "lr_scheduler", "warmup_ratio", "warmup_steps",
    "optimizer", "weight_decay", "max_grad_norm", "num_epochs", "max_steps", "micro_batch_size",
    "gradient_accumulation_steps", "sequence_len", "sample_packing", "seed",
)  # fmt: skip


# Models of different architecture or size differ in at least one of these
SHAPE_KEYS = ("model_type", "hidden_size", "num_hidden_layers")
SMOLLM2 = {"model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30}  # in its config.json
SAMPLE = Path(data_prep.__file__).parent / "sample/test.jsonl"  # our own dialogues


class Shown(NamedTuple):
    """The card's example: a dialogue, the tuned model's summary, whether the data contains it."""

    dialogue: str
    summary: str
    of_data: bool


class TrainerState(BaseModel):
    """The fields of `trainer_state.json` that the card shows."""

    global_step: int | None = None
    log_history: list[dict[str, Any]] = []


class Records(NamedTuple):
    """The records of a run; the last three are None for an adapter of another tool.

    They come from `trainer_state.json`, `run.json` and `trained_with.json`.
    """

    recipe: Recipe
    manifest: Manifest
    scores: Scores
    adapter: Path
    training: TrainerState | None
    run: RunRecord | None
    trained: TrainedWith | None


TAGS = ["axolotl", "lora", "peft", "summarization", "dialogue-summarization"]
INTERVAL = re.compile(r" \[([\d.-]+), ([\d.-]+)\]")  # moved to its own line: the table is wide


def model_card(
    records: Records,
    names: Names,
    repo: str | None = None,
    proof: Proof | None = None,
    example: Shown | None = None,
) -> ModelCard:
    """Return the adapter's card, or the merged model's if its `proof` is given.

    The metadata contains the tuned model's ROUGE in percent, with the bounds of its interval.
    """
    is_listed = re.fullmatch(HUB_LICENSES, names.license)
    scores, name = records.scores.systems["tuned"].scores, data_name(records, names)
    metadata = ModelCardData(
        base_model=names.base_model,
        base_model_relation="finetune" if proof else "adapter",
        datasets=[names.dataset] if names.dataset else None,
        language=records.recipe.summarization.language,
        library_name="transformers" if proof else "peft",
        license=names.license if is_listed else "other",
        license_name=None if is_listed else names.license,
        metrics=["rouge"],
        model_name=(repo or records.recipe.name).split("/")[-1],
        pipeline_tag="summarization",
        tags=[tag for tag in TAGS if not (proof and tag == "peft")],
        eval_results=[
            EvalResult(
                task_type="summarization",
                task_name="Dialogue summarization",
                dataset_type=names.dataset or name,
                dataset_name=name,
                dataset_split=records.scores.split,
                dataset_revision=records.manifest.revision if names.dataset else None,
                metric_type="rouge",
                metric_name=HEADERS[metric],
                metric_value=round(scores[metric].f1, 2),
                metric_config=metric,
                metric_args={
                    "use_stemmer": True,
                    "confidence": records.scores.bootstrap.confidence,
                    "low": round(scores[metric].low, 2),
                    "high": round(scores[metric].high, 2),
                },
            )
            for metric in METRICS
        ],
    )
    text = _text(records, names, repo, proof, example)
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}")


def data_name(records: Records, names: Names) -> str:
    """Return the name of the data: the last part of its Hub id or of the source's path."""
    return PureWindowsPath(names.dataset or records.recipe.summarization.source).name


def example_of(records: Records) -> Shown | None:
    """Return the first test dialogue and the tuned model's summary of it, if the data is CC0.

    Otherwise return one of our own dialogues, which the model summarises now; if that fails, print
    a note with the reason and return None.
    """
    recipe = records.recipe
    if recipe.summarization.license == FREE:
        path = Path("results") / recipe.name / "predictions.tuned.jsonl"
        example = read_examples(recipe.data_dir / "test.jsonl")[0]
        with reading(path, fix := f"run `python -m eval.run {recipe.path}` again"):
            if not matching_record(path):
                raise UserError(f"{path}: is not as eval.run wrote it; delete it and {fix}")
            summaries = {row.id: row.prediction for row in read_predictions(path)}
            return Shown(example.dialogue, summaries[example.id], True)
    dialogue = json.loads(SAMPLE.read_text("utf-8").partition("\n")[0])["dialogue"]
    try:
        _check_memory(recipe)
        pair = Pair(recipe, records.adapter)
        prediction, _ = pair.summarize("tuned", pair.encode(dialogue))
    except Exception as error:  # loaders may raise anything, and the example is optional
        print(f"note: the card shows no example: {' '.join(str(error).split())[:300]}")
        return None
    return Shown(dialogue, prediction.prediction, False)


def _check_memory(recipe: Recipe) -> None:
    """Raise UserError if the weights exceed a CPU's memory: the system would kill the process."""
    from torch.cuda import is_available

    folder = _folder(base_model := str(recipe.config["base_model"]), recipe.config)
    size = sum(path.stat().st_size for path in (folder or Path()).glob("*.safetensors"))
    if not is_available() and 2 * size > virtual_memory().available:  # 16 bits become 32
        raise UserError(f"{base_model} needs a GPU, or {2 * size / 1e9:.0f} GB of free memory")


def _text(
    records: Records, names: Names, repo: str | None, proof: Proof | None, example: Shown | None
) -> str:
    recipe, scores = records.recipe, records.scores
    pairs = {pair.systems: pair for pair in scores.comparisons}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(fenced=fenced, quoted=partial(json.dumps, ensure_ascii=False))
    return environment.get_template("model_card.md.j2").render(
        repo=repo or f"user/{recipe.name}",
        recipe=recipe,
        block=recipe.summarization,
        names=names,
        proof=proof,
        example=example,
        scores=scores,
        tuned=scores.systems["tuned"],
        manifest=records.manifest,
        data_name=data_name(records, names),
        conclusion=conclusion(scores),
        verdict=verdict(pairs["base", "tuned"], scores.bootstrap),
        sure=number(scores.bootstrap.confidence, ".0%"),
        rouge=INTERVAL.sub(r"<br>[\1, \2]", table(scores)),
        tests=comparison_table(scores),
        leaked=leaked_table(scores),
        mistakes=mistake_table(scores),
        similarity=ABOUT_SIMILARITY if SIMILARITY in scores.metrics else "",
        baselines={n: text for n, text in BASELINES.items() if n in scores.systems},
        settings=settings_rows(recipe.config, records.run),
        training=training_rows(records.training, records.trained, scores),
        decoding=_decoding(scores.decoding or Decoding()),
    )


def _decoding(settings: Decoding) -> str:
    """Return the arguments with which `generate` decodes as the evaluation did."""
    always = {"max_new_tokens", "do_sample"}
    args = settings.model_dump(include=always)
    args |= settings.model_dump(exclude=always | MACHINE_KEYS | {"seed"}, exclude_defaults=True)
    return ", ".join(f"{key}={value}" for key, value in args.items())


def read_records(recipe: Recipe) -> Records:
    """Read all records of a run, in the order in which the three commands write them.

    Raises UserError, with the command to run, if a record is missing or damaged, or if it belongs
    to different data, another training or another adapter.
    """
    manifest, folder = check_prepared(recipe), recipe.output_dir
    if (folder / "adapter_model.bin").is_file() and not (folder / ADAPTER).is_file():
        raise UserError(
            f"{folder}: adapter_model.bin is a pickle, which may run code; load it with PEFT and "
            f"save it again with its `save_pretrained`, as {ADAPTER}, or train again"
        )
    adapter = find_adapter(recipe)
    scores, log = read_scores(recipe, adapter, manifest), adapter / "trainer_state.json"
    state, run = read_record(log, TrainerState), read_run_record(adapter)
    trained = read_record(adapter / TRAINED_WITH, TrainedWith)
    fix = f"put back the file that the training wrote, or train again with `{TRAIN_AGAIN}`"
    for name, record in ((RUN, run), (TRAINED_WITH, trained)):
        if record:
            record.check(adapter / name, fix)
    if state and trained and trained.log not in (None, sha256_of(log)):
        raise UserError(f"{log}: is not as the training wrote it; {fix}")
    return Records(recipe, manifest, scores, adapter, state, run, trained)


def read_scores(recipe: Recipe, adapter: Path, manifest: Manifest) -> Scores:
    """Return this adapter's scores on the whole test split; raise UserError if there are none."""
    path = Path("results") / recipe.name / "scores.json"
    fix = f"run `python -m eval.run {recipe.path}`"
    scores = Scores.read(path)
    if (scores.recipe, scores.split) != (recipe.name, "test"):
        raise UserError(
            f"{path}: is for recipe {scores.recipe}, {scores.split} split, {scores.examples} rows; "
            f"{fix}"
        )
    if missing := [name for name in ("base", "tuned") if name not in scores.systems]:
        raise UserError(f"{path}: lacks the scores of {' and '.join(missing)}; {fix}")
    fields = scores.systems["tuned"].fields
    compared = {
        "adapter": (fields.get("adapter"), adapter_hash(adapter)[:8]),
        "test data": (fields.get("data"), manifest.files["test.jsonl"][:8]),
        "number of test dialogues": (scores.examples, manifest.counts["test"].written),
    }
    settings = recipe.summarization.decoding.model_dump(exclude=MACHINE_KEYS)
    used = scores.decoding.model_dump() if scores.decoding else {}
    compared |= {f"decoding.{key}": (used.get(key), settings[key]) for key in settings}
    for name, (scored, current) in compared.items():
        if scored != current:
            raise UserError(f"{path}: {name} was {scored} and is {current}; {fix} again")
    sum_file = path.with_name(SUM)
    if not sum_file.is_file() or sum_file.read_bytes().split()[:1] != [sha256_of(path).encode()]:
        raise UserError(f"{path}: is not as eval.run wrote it, with {SUM} beside it; {fix} again")
    return scores


def settings_rows(config: dict[str, Any], run: RunRecord | None) -> list[tuple[str, str]]:
    """Return the settings that affect the weights; keys the recipe does not set are left out."""
    rows = [(f"`{key}`", _shown(config[key])) for key in SETTINGS if key in config]
    if run and isinstance(processes := run.settings.get("processes"), int):
        rows.append(("processes", str(processes)))
    return [*rows, ("precision", _precision(config, run.precision if run else {}))]


def training_rows(
    state: TrainerState | None, trained: TrainedWith | None, scores: Scores
) -> list[tuple[str, str]]:
    """Return what training and evaluation recorded; missing values say so."""
    state = state or TrainerState()
    logged: dict[str, float] = {}  # the last value of each name
    for entry in state.log_history:
        logged |= {key: value for key, value in entry.items() if isinstance(value, (int, float))}
    memory, environment = trained and trained.peak_memory_gb, scores.environment
    base, tuned = (_minutes(scores.systems[name].seconds) for name in ("base", "tuned"))
    return [
        ("steps", _number(state.global_step, "d")),
        ("mean training loss", _number(logged.get("train_loss"), ".3f")),
        ("last validation loss", _number(logged.get("eval_loss"), ".3f")),
        ("training time since the last start", _minutes(logged.get("train_runtime"))),
        ("peak memory in training", f"{memory:.1f} GB" if memory else NOT_MEASURED),
        ("energy", NOT_MEASURED),
        ("training machine", (trained and trained.machine) or NOT_RECORDED),
        ("time to generate the test summaries, all processes", f"{base}, {tuned} (base, tuned)"),
        ("evaluation machine", environment.get("gpu") or environment.get("cpu") or NOT_MEASURED),
    ]


def _number(value: float | None, spec: str) -> str:
    return NOT_RECORDED if value is None else format(value, spec)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _precision(config: dict[str, Any], used: dict[str, Any]) -> str:
    """Return the precision that training used or, if not recorded, that the recipe asks for."""
    values = {name: used.get(name, config.get(name)) for name in ("bf16", "fp16")}
    precision = next((name for name, value in values.items() if value is True), "fp32")
    if values["bf16"] == "auto":
        precision = "chosen by the machine (bf16: auto)"
    quantised = [key for key in ("load_in_4bit", "load_in_8bit") if config.get(key)]
    return ", ".join([precision, *quantised])


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return NOT_MEASURED
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def names_of(recipe: Recipe, source_files: dict[str, str], base_model: str | None = None) -> Names:
    """Return the names; `base_model` (from the command line) takes precedence over the recipe.

    Raises UserError if the base model has no Hub id, its licence is unknown, or the adapter was
    trained on a different model.
    """
    publish = recipe.summarization.publish
    model = str(recipe.config["base_model"])  # `find_adapter` compared it with the adapter's record
    is_local = not is_hub_id(model)
    base = base_model or publish.base_model or (None if is_local else model)
    if base is None:
        raise UserError(
            f"{recipe.path}: base_model {model} is a folder on this machine; name the Hub's model "
            "in summarization.publish.base_model, or with --base-model owner/name"
        )
    if not re.fullmatch(HUB_ID, base):
        raise UserError(f"--base-model: {base} is not a Hub id; give owner/name")
    _check_named(base, model, is_local, recipe, bool(base_model))
    base_license = (publish.base_license or BASE_LICENSES.get(base, "")).lower()
    if not base_license:
        raise UserError(
            f"{recipe.path}: the licence of {base} is not known; write it in "
            "summarization.publish.base_license, as the model's card has it (for instance mit)"
        )
    source, license_of_data = recipe.summarization.source, recipe.summarization.license
    on_hub = not source_files and is_hub_id(source)
    dataset = publish.dataset or (source if on_hub else None)
    return Names(base, base_license, dataset, license_of_data, is_local, not on_hub)


def _check_named(base: str, model: str, is_local: bool, recipe: Recipe, by_option: bool) -> None:
    """Raise UserError if `base`, from the recipe or the option, is not the adapter's base model.

    For a local folder, its name or the option says which model it contains. Shapes can only
    contradict that: fine-tuned models have the shape of their base.
    """
    key = "--base-model" if by_option else f"{recipe.path}: summarization.publish.base_model"
    problem = f"{key} is {base}, but the adapter was trained on {model}"
    if not is_local:
        if base.lower() != model.lower():
            raise UserError(f"{problem}, as its adapter_config.json says; leave it out")
        return
    named, actual = _shape(base), _shape(model)
    for what in SHAPE_KEYS:
        if named.get(what) != actual.get(what) and what in named and what in actual:
            raise UserError(
                f"{problem}, whose {what} is {actual[what]} and not {named[what]}; name the Hub's "
                f"model that is in {model}"
            )
    letters = [re.sub("[^a-z0-9]", "", name.lower()) for name in (base.split("/")[1], model)]
    if not by_option and letters[0] not in letters[1]:
        raise UserError(
            f"{problem}, a folder with another name; name the Hub's model that is in it, or if "
            f"it is {base}, add `--base-model {base}`"
        )


def _shape(name: str) -> dict[str, Any]:
    """Return what a model's folder, the Hub's cache or our list of names says about its shape."""
    from scripts.random_model import PUBLISHED

    folder = _folder(name, {})
    if folder and (folder / "config.json").is_file():
        with reading(folder / "config.json", "make the model's folder again"):
            return dict(json.loads((folder / "config.json").read_text("utf-8")))
    return {"HuggingFaceTB/SmolLM2-135M-Instruct": SMOLLM2, **PUBLISHED}.get(name, {})


def _folder(name: str, config: dict[str, Any]) -> Path | None:
    """Return a model's folder on this machine, also in the Hub's cache; None if there is none."""
    return Path(name) if Path(name).is_dir() else snapshot(name, config)


def is_hub_id(name: str) -> bool:
    """Whether a name is `owner/name` and not a path: its parent folder does not exist."""
    return bool(re.fullmatch(HUB_ID, name)) and not Path(name).parent.exists()


def portable(recipe: Recipe, names: Names) -> dict[str, str]:
    """Return each absolute path in the recipe with the text that is published instead."""
    config, name, source = recipe.config, recipe.name, recipe.summarization.source
    places = {
        str(config["output_dir"]): f"outputs/{name}",
        source: f"data/{PureWindowsPath(source).name}",  # splits Windows and POSIX paths
        str(config["base_model"]): names.base_model,
        str(config.get("dataset_prepared_path") or ""): "last_run_prepared",
    }
    for entry in (config.get("datasets") or []) + (config.get("test_datasets") or []):
        path = str(entry.get("path", ""))
        places[path] = f"data/{name}/{PureWindowsPath(path).name}"
    return {path: place for path, place in places.items() if is_absolute(path)}


def is_absolute(path: str) -> bool:
    """Whether a path is absolute on any system, or starts with a home folder (`~`)."""
    return path.startswith(("/", "~")) or PureWindowsPath(path).is_absolute()
