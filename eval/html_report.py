"""The report as one page that needs no network: `report.html`.

Use: `html_report({"scores": ..., "examples": ..., "training": ..., "recipe_text": ...})`.
Corpus text reaches the page through Jinja's escaping alone, and the page's policy lets no script
run but its own.
"""

import base64
import hashlib
import re
from difflib import SequenceMatcher
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from eval import charts
from eval.baselines import BASELINES
from eval.diagnosis import MISTAKES as DIAGNOSED
from eval.diagnosis import speakers
from eval.metrics import METRICS
from eval.report import HEADERS, SIMILARITY, adapter_sentence, similarity_signatures
from eval.stats import number, other_metrics, p_value, percent, signed, verdict

METRIC = "rougeL"
SNIPPET = 150  # characters of the reference in a closed example's line
Row = dict[str, Any]
_EDGES = re.compile(r"^\W+|\W+$")

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


def example_views(examples: list[Row], models: list[str]) -> list[Row]:
    """What the template shows of each example, in their order; scores in percent.

    `difference` is last model minus first in ROUGE-L points, None where there is one model.
    """
    return [_view(example, place, models) for place, example in enumerate(examples)]


def mistake_choices(views: list[Row], models: list[str]) -> list[tuple[str, list[Row]]]:
    """For the filter: each model's mistakes that occur, with the key and number of examples."""
    counts: dict[str, int] = {}
    for view in views:
        for key in view["keys"]:
            counts[key] = counts.get(key, 0) + 1
    return [
        (model, found)
        for n, model in enumerate(models)
        if (
            found := [
                {"key": key, "name": name, "examples": counts[key]}
                for name in DIAGNOSED
                if (key := f"{n}:{name}") in counts
            ]
        )
    ]


def marked(text: str, other: str) -> Markup:
    """The text, its words that the other text does not have at that place within `<mark>`.

    Case and punctuation around a word do not count; words run from blank to blank. The marks are
    those of `difflib.SequenceMatcher`, prediction against reference.
    """
    words = list(re.finditer(r"\S+", text))
    matcher = SequenceMatcher(
        None, [_key(word) for word in other.split()], [_key(word[0]) for word in words], False
    )
    parts, end = [], 0
    for kind, _, _, start, stop in matcher.get_opcodes():
        if kind == "equal" or start == stop:
            continue
        begin, after = words[start].start(), words[stop - 1].end()
        parts += [escape(text[end:begin]), Markup("<mark>{}</mark>").format(text[begin:after])]
        end = after
    return Markup("").join([*parts, escape(text[end:])])


def chat(dialogue: str) -> Markup:
    """The dialogue as it stands, the names of those who speak in bold."""
    names = set(speakers(dialogue))
    lines = []
    for line in dialogue.splitlines():
        name, colon, rest = line.partition(":")
        if colon and name.strip() in names:
            lines.append(Markup("<b>{}:</b>{}").format(name, rest))
        else:
            lines.append(escape(line))
    return Markup("\n").join(lines)


def _view(example: Row, place: int, models: list[str]) -> Row:
    made, reference = example["predictions"], example["reference"]
    scores = {name: 100 * made[name]["f1"][METRIC] for name in models}
    last = models[-1]
    return {
        "place": place,
        "id": str(example["id"]),
        "leaked": bool(example["leaked"]),
        "words": len(example["dialogue"].split()),
        "snippet": _shortened(reference),
        "dialogue": chat(example["dialogue"]),
        "reference": marked(reference, made[last]["text"]),
        "predictions": [_prediction(name, made[name], reference) for name in models],
        "scores": scores,
        "score": scores[last],
        "difference": scores[last] - scores[models[0]] if len(models) > 1 else None,
        "keys": [f"{n}:{wrong}" for n, m in enumerate(models) for wrong in made[m]["mistakes"]],
    }


def _prediction(name: str, made: Row, reference: str) -> Row:
    return {
        "name": name,
        "text": marked(made["text"], reference),
        "empty": not made["text"].strip(),
        "f1": {metric: 100 * value for metric, value in made["f1"].items()},
        "tokens": made["tokens"],
        "stopped": made["stopped"],
        "mistakes": made["mistakes"],
    }


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SNIPPET else text[:SNIPPET].rstrip() + "…"


def _key(word: str) -> str:
    return _EDGES.sub("", word).casefold() or word
