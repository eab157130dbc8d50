"""The report as one page that needs no network: `report.html`.

Corpus text reaches the page through Jinja's escaping alone, and the page's policy lets no script
run but its own.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from importlib.resources import files as package_files
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from eval import charts
from eval.analysis import Analysis
from eval.baselines import BASELINES
from eval.diagnosis import MISTAKES, speakers, unknown_places
from eval.metrics import SIMILARITY
from eval.report import (
    ABOUT_SIMILARITY,
    HEADERS,
    adapter_sentence,
    conclusion,
    copied,
    metrics_in_order,
)
from eval.scores import PRIMARY, Scores
from eval.stats import number, outcome, p_value, signed

# The settings of a training that its table shows; the whole recipe is below it.
SETTINGS = (
    r"adapter|(q?lora|peft)_\w+|load_in_\dbit|learning_rate|lr_scheduler|optimizer|num_epochs"
    r"|max_steps|warmup_\w+|micro_batch_size|gradient_accumulation_steps|sequence_len"
    r"|sample_packing|bf16|seed|summarization\.(source|train_rows)"
)
INVENTED = "in no turn of the dialogue"


def html_report(
    result: Analysis,
    curves: Mapping[str, charts.Points],
    recipe_text: str | None,
    files: Sequence[str] = (),
) -> str:
    """The whole page; the same data give the same bytes.

    `curves`: what training logged, as [step, value] pairs, by the trainer's names (`eval_loss`);
    `files`: names of those beside the page, to which it links.
    """
    scores = result.scores
    return page(
        "report.html.j2",
        result,
        headline=_headline(scores),
        adapter_sentence=adapter_sentence(scores),
        charts=charts.draw(result, curves),
        copies=copied(scores),
        files={name: name for name in files},
        settings={
            key.removeprefix("summarization."): value
            for key, value in scores.settings.items()
            if re.fullmatch(SETTINGS, key)
        },
        recipe_text=recipe_text,
        last=scores.main,
    )


def page(template: str, result: Analysis, last: str, **values: Any) -> str:
    """A template of this package, with what all pages have and `values`; needs no network.

    `last`: the model whose difference from the first one the examples show.
    """
    scores = result.scores
    environment = Environment(
        loader=PackageLoader("eval"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "marked": marked, "chat": chat}
    environment.globals["p_value"] = p_value
    script = package_files("eval").joinpath("templates/report.js").read_text("utf-8")
    return environment.get_template(template).render(
        **values,
        scores=scores,
        systems=scores.systems,
        result=result,
        first=scores.models[0],
        last=last,
        picks=picks(result, last),
        outputs={name: result.systems[name] for name in scores.models},
        percents={name: (100 * result.values[name]).tolist() for name in scores.models},
        metrics={metric: HEADERS[metric] for metric in scores.metrics},
        ordered={metric: HEADERS[metric] for metric in metrics_in_order(scores)},
        baselines={n: text for n, text in BASELINES.items() if n in scores.systems},
        mistakes=MISTAKES,
        similarity=ABOUT_SIMILARITY if SIMILARITY in scores.metrics else "",
        sure=number(scores.bootstrap.confidence, ".0%"),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def picks(result: Analysis, last: str) -> dict[str, int]:
    """Places of the examples near the top of a page: a typical one, the best and the worst.

    By the difference in ROUGE-L of `last` and the first model; typical is the one whose score and
    difference are nearest to their medians. Of a single model by its score.
    """
    first, column = result.scores.models[0], result.scores.metrics.index(PRIMARY)
    score = result.values[last][:, column]
    values = score - result.values[first][:, column] if first != last else score
    distance = abs(values - np.median(values)) + abs(score - np.median(score))
    best, worst = ("Best gain", "Worst regression") if first != last else ("Best", "Worst")
    if first != last and values.min() >= 0:
        worst = "Least gain"
    found = {"Typical": distance.argmin(), best: values.argmax(), worst: values.argmin()}
    return {title: int(place) for title, place in found.items()}


def _headline(scores: Scores) -> list[str]:
    """The conclusion, then in how many dialogues, and whether the other metrics agree.

    A report of one model says what it scores first.
    """
    settings, main = scores.bootstrap, scores.main
    pairs = {pair.systems: pair for pair in scores.comparisons}
    if pair := pairs.get((scores.models[0], main)):
        found = {name: outcome(test, settings.confidence) for name, test in pair.metrics.items()}
        others = [name for name in found if name != PRIMARY]
        differing = [name for name in others if found[name] != found[PRIMARY]]
        listed = ", ".join(HEADERS[name] for name in differing or others)
        listed = " and ".join(listed.rsplit(", ", 1))
        agree = f"{listed} agree."
        if differing:
            agree = f"By {listed} it is otherwise: see the paired tests."
        counts = (
            f"Better than {pair.systems[0]} in {pair.better:,} of {scores.examples:,} dialogues, "
            f"worse in {pair.worse:,}, equal in {pair.equal:,}."
        )
        return [conclusion(scores), f"{counts} {agree}"]
    score = scores.systems[main].scores[PRIMARY]
    own = (
        f"{main} scores {score.f1:.2f} ROUGE-L ({number(settings.confidence, '.0%')} interval "
        f"{score.low:.2f} to {score.high:.2f}) on {scores.examples:,} dialogues."
    )
    return [own, *filter(None, [conclusion(scores)])]


def marked(text: str, other: str, dialogue: str = "") -> Markup:
    """The text, its words that the other text does not have at that place within `<mark>`.

    Of class `invented` where they hold a name, number or date that is in no turn of the dialogue.
    Case and punctuation around a word do not count; words run from blank to blank.
    """
    words = list(re.finditer(r"\S+", text))
    wanted, found = (
        [re.sub(r"^\W+|\W+$", "", word).casefold() or word for word in one]
        for one in (other.split(), [word[0] for word in words])
    )
    kinds = [""] * len(words)
    for kind, _, _, start, stop in SequenceMatcher(None, wanted, found, False).get_opcodes():
        if kind != "equal":
            kinds[start:stop] = ["differs"] * (stop - start)
    for start, stop in unknown_places(text, dialogue) if dialogue else ():
        for n, word in enumerate(words):
            if start < word.end() and word.start() < stop:
                kinds[n] = "invented"
    opening = {"differs": "<mark>", "invented": f'<mark class="invented" title="{INVENTED}">'}
    parts, end = [], 0
    for kind, group in groupby(zip(kinds, words, strict=True), key=itemgetter(0)):
        _, ones = zip(*group, strict=True)
        begin, after = ones[0].start(), ones[-1].end()
        if kind:
            parts += [escape(text[end:begin]), Markup(opening[kind]), escape(text[begin:after])]
            parts.append(Markup("</mark>"))
            end = after
    return Markup("").join([*parts, escape(text[end:])])


def chat(dialogue: str) -> Markup:
    """The dialogue with the names of its speakers in bold."""
    names = set(speakers(dialogue))
    lines = []
    for line in dialogue.splitlines():
        name, *rest = re.split(r"(?<=[:：])", line, maxsplit=1)
        bold = rest and name[:-1].strip() in names
        lines.append(Markup("<b>{}</b>{}").format(name, rest[0]) if bold else escape(line))
    return Markup("\n").join(lines)
