"""The model card of a published adapter or merged model, written from the records of its run.

Use: `model_card(read_records(recipe), names)`; metadata and evaluation results are in the hub's
own format, by huggingface_hub's own classes.
"""

import json
import re
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

from data_prep.errors import UserError
from data_prep.recipe import Decoding
from eval.publish.names import HUB_LICENSES, Names
from eval.publish.records import Records
from eval.publish.training_facts import settings_rows, training_rows
from eval.report import (
    HEADERS,
    SIMILARITY,
    comparison_table,
    fenced,
    leaked_table,
    mistake_table,
    similarity_signatures,
    similarity_tables,
    table,
)
from eval.rouge import METRICS
from eval.systems import BASELINES
from eval.verdict import percent, verdict

TAGS = ["axolotl", "lora", "peft", "summarization", "dialogue-summarization"]
INTERVAL = re.compile(r" \[([\d.-]+), ([\d.-]+)\]")  # on a line of its own: the table is wide
Data = dict[str, Any]


def model_card(
    records: Records, names: Names, repo: str | None = None, proof: Data | None = None
) -> ModelCard:
    """The card, of the merged model where its `proof` is given.

    Raises UserError where scores.json has not this version's layout.
    """
    try:
        text = _text(records, names, repo, proof)
        data = metadata(records, names, repo, merged=proof is not None)
    except (LookupError, TypeError, AttributeError, UndefinedError, ValueError) as error:
        raise UserError(
            f"results/{records.recipe.name}/scores.json: has not the layout of this version "
            f"({error}); run `python -m eval.run {records.recipe.path}` again"
        ) from error
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def metadata(
    records: Records, names: Names, repo: str | None = None, merged: bool = False
) -> ModelCardData:
    """The card's metadata, with the tuned model's ROUGE as its `model-index`."""
    told = records.recipe.summarization.publish
    known = names.license in HUB_LICENSES
    return ModelCardData(
        base_model=names.base_model,
        base_model_relation="finetune" if merged else "adapter",
        datasets=[names.dataset] if names.dataset else None,
        language=told.language,
        library_name="transformers" if merged else "peft",
        license=names.license if known else "other",
        license_name=None if known else names.license,
        metrics=["rouge"],
        model_name=(repo or records.recipe.name).split("/")[-1],
        pipeline_tag="summarization",
        tags=[tag for tag in TAGS if not (merged and tag == "peft")],
        eval_results=eval_results(records, names),
    )


def eval_results(records: Records, names: Names) -> list[EvalResult]:
    """ROUGE of the tuned model, in percent, with the ends of its interval."""
    scores = records.scores["systems"]["tuned"]["scores"]
    confidence = records.scores["bootstrap"]["confidence"]
    name = data_name(records, names)
    return [
        EvalResult(
            task_type="summarization",
            task_name="Dialogue summarization",
            dataset_type=names.dataset or name,
            dataset_name=name,
            dataset_split=records.scores["split"],
            dataset_revision=records.manifest.get("revision") if names.dataset else None,
            metric_type="rouge",
            metric_name=HEADERS[metric],
            metric_value=round(scores[metric]["f1"], 2),
            metric_config=metric,
            metric_args={
                "use_stemmer": True,
                "confidence": confidence,
                "low": round(scores[metric]["low"], 2),
                "high": round(scores[metric]["high"], 2),
            },
        )
        for metric in METRICS
    ]


def data_name(records: Records, names: Names) -> str:
    """What the data are called: the end of their hub id, or of the source's path."""
    source = names.dataset or records.recipe.summarization.source
    return source.replace("\\", "/").rstrip("/").split("/")[-1]


def _text(records: Records, names: Names, repo: str | None, proof: Data | None) -> str:
    scores = records.scores
    pairs = {tuple(pair["systems"]): pair for pair in scores["comparisons"]}
    environment = Environment(
        loader=PackageLoader("eval"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2").render(
        repo=repo or f"user/{records.recipe.name}",
        name=records.recipe.name,
        names=names,
        proof=proof,
        told=records.recipe.summarization.publish,
        scores=scores,
        tuned=scores["systems"]["tuned"],
        manifest=records.manifest,
        data_name=data_name(records, names),
        verdict=verdict(pairs["base", "tuned"], scores["bootstrap"]),
        sure=percent(scores["bootstrap"]["confidence"]),
        tables={
            "rouge": INTERVAL.sub(r"<br>[\1, \2]", table(scores)),
            "tests": comparison_table(scores),
            "leaked": leaked_table(scores),
            "mistakes": mistake_table(scores),
        },
        similarity=_similarity(scores),
        baselines={n: text for n, text in BASELINES.items() if n in scores["systems"]},
        settings=settings_rows(records.recipe.config, records.run),
        training=training_rows(records.training, records.trained, scores),
        instruction=fenced(records.recipe.summarization.instruction),
        decoding=_decoding(scores["decoding"]),
        prompt_code=json.dumps(records.recipe.summarization.instruction, ensure_ascii=False),
    )


def _similarity(scores: Data) -> Data | None:
    tables, signatures = similarity_tables(scores), similarity_signatures(scores)
    return {"what": SIMILARITY, "tables": tables, "signatures": signatures} if tables else None


def _decoding(settings: Data) -> str:
    """The arguments of `generate` that decode as the evaluation did."""
    default = Decoding().model_dump()
    ours = ("engine", "dtype", "batch_tokens", "seed", "max_new_tokens", "do_sample")
    shown = {key: settings[key] for key in ("max_new_tokens", "do_sample")}
    shown |= {k: v for k, v in settings.items() if k not in ours and v != default.get(k)}
    return ", ".join(f"{key}={value}" for key, value in shown.items())
