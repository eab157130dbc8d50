"""The report as one page that needs no network: `report.html`.

Use: `html_report({"scores": ..., "examples": ..., "training": ..., "recipe_text": ...})`.
Corpus text reaches the page through Jinja's escaping alone, and the page's policy lets no script
run but its own.
"""

import base64
import hashlib
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eval import charts
from eval.html_examples import example_views, mistake_choices
from eval.report import HEADERS, SIMILARITY, adapter_sentence, similarity_signatures
from eval.rouge import METRICS
from eval.systems import BASELINES
from eval.verdict import number, other_metrics, p_value, percent, signed, verdict

MISTAKES = {
    "empty": ("empty", "not one letter or digit"),
    "token_limit": ("token limit", "cut off by the limit of tokens before the model stopped"),
    "loop": ("loop", "the same four words three times, or the same sentence twice"),
    "missing_speaker": (
        "speaker missing",
        "somebody who speaks is named in the reference and not in the summary",
    ),
    "unknown_name": ("unknown name", "a name that stands in no turn of the dialogue"),
}
STYLES = {
    "words": ("words", "mean words of a summary", ".1f"),
    "length_ratio": ("to reference", "words of the summaries to those of the references", ".2f"),
    "compression": ("to dialogue", "words of the summaries to those of the dialogues", ".2f"),
    "copied_4grams": ("copied", "share of 4-grams that stand in the dialogue", ".0%"),
}
GROUPS = {"words": "Words", "turns": "Turns", "speakers": "Speakers"}
Data = dict[str, Any]


def html_report(report_data: Data) -> str:
    """The whole page; the same data give the same bytes.

    `examples` have one or two models in `predictions`, the tuned one last; `training` and
    `recipe_text` may be None. Raises ValueError where there are no examples.
    """
    scores, examples = report_data["scores"], report_data["examples"]
    if not examples:
        raise ValueError("no examples: a report needs at least one")
    environment = _environment()
    script = _source(environment, "report.js")
    models = list(examples[0]["predictions"])
    views = example_views(examples, models)
    return environment.get_template("report.html.j2").render(
        scores=scores,
        models=models,
        headline=_headline(scores, models),
        adapter_sentence=adapter_sentence(scores),
        views=views,
        choices=mistake_choices(views, models),
        charts=_charts(scores, views, models) | _training(report_data["training"]),
        recipe_text=report_data["recipe_text"],
        metrics={metric: HEADERS[metric] for metric in METRICS},
        baselines={n: text for n, text in BASELINES.items() if n in scores["systems"]},
        mistakes=MISTAKES,
        styles=STYLES,
        groups=GROUPS,
        similarity=SIMILARITY if similarity_signatures(scores) else None,
        css=Markup(_source(environment, "report.css")),
        sure=percent(scores["bootstrap"]["confidence"]),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _headline(scores: Data, models: list[str]) -> list[str]:
    """The verdict of the paired test of the models, then of the tuned one and the base model cut.

    A report of one model compares it with the baselines, or says what it scores.
    """
    settings = scores["bootstrap"]
    pairs = {tuple(pair["systems"]): pair for pair in scores["comparisons"]}
    last = models[-1]
    if len(models) > 1 and (pair := pairs.get((models[0], last))):
        sentences = [verdict(pair, settings), other_metrics(pair, settings, HEADERS)]
        cut = pairs.get(("base-cut", last))
        return [
            " ".join(sentences),
            *([f"With base cut to as many words: {verdict(cut, settings)}"] if cut else []),
        ]
    score = scores["systems"][last]["scores"]["rougeL"]
    own = (
        f"{last} scores {score['f1']:.2f} ROUGE-L ({percent(settings['confidence'])} interval "
        f"{score['low']:.2f} to {score['high']:.2f}) on {scores['examples']:,} dialogues."
    )
    return [own, *(verdict(pair, settings) for pair in scores["comparisons"])]


def _charts(scores: Data, views: list[Data], models: list[str]) -> dict[str, Markup]:
    shown = {metric: HEADERS[metric] for metric in METRICS if metric != "rougeLsum"}
    made = {"bars": charts.bars(scores["systems"], shown)}
    if len(models) > 1:
        differences = [view["difference"] for view in views]
        made["differences"] = charts.differences(differences, models[0], models[-1])
    if groups := scores["groups"].get("words"):
        words = [view["words"] for view in views]
        points = {name: [view["scores"][name] for view in views] for name in models}
        made["length"] = charts.by_length(words, points, groups)
    return made


def _training(training: Data | None) -> dict[str, Markup]:
    """Charts of what training logged; none where it logged nothing."""
    if training is None:
        return {}
    made = {}
    losses = {"training": training["loss"], "validation": training["eval_loss"]}
    if any(losses.values()):
        made["loss"] = charts.curves(losses, "loss", "loss")
    names = {key: HEADERS.get(key.removeprefix("eval_"), key) for key in training["eval_rouge"]}
    rouge = {names[key]: curve for key, curve in training["eval_rouge"].items()}
    if any(rouge.values()):
        made["rouge"] = charts.curves(rouge, "rouge", "ROUGE on validation rows")
    return made


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("eval"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "number": number, "signed": signed}
    environment.globals["p_value"] = p_value
    return environment


def _source(environment: Environment, name: str) -> str:
    """A file beside the template, as it stands."""
    if environment.loader is None:
        raise ValueError("the environment has no loader")
    return environment.loader.get_source(environment, name)[0]


def _figure(value: float | None, form: str) -> str:
    """A dash where nothing is known."""
    return "–" if value is None else format(value, form).replace("-", "−").replace("%", "\u00a0%")
