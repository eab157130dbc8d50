"""The report as one page that needs no network: `report.html`.

Corpus text reaches the page through Jinja's escaping alone, and the page's policy lets no script
run but its own.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from eval import charts
from eval.analysis import Analysis
from eval.baselines import BASELINES
from eval.diagnosis import MISTAKES, speakers
from eval.metrics import SIMILARITY
from eval.report import ABOUT_SIMILARITY, HEADERS, adapter_sentence, conclusion
from eval.scores import PRIMARY, Scores
from eval.stats import number, outcome, p_value, signed, verdict


def html_report(
    result: Analysis, curves: Mapping[str, charts.Points], recipe_text: str | None
) -> str:
    """The whole page; the same data give the same bytes.

    `curves`: what training logged, as [step, value] pairs, by the trainer's names (`eval_loss`).
    """
    scores = result.scores
    return page(
        "report.html.j2",
        result,
        headline=_headline(scores),
        adapter_sentence=adapter_sentence(scores),
        charts=charts.draw(result, curves),
        recipe_text=recipe_text,
    )


def page(template: str, result: Analysis, **values: Any) -> str:
    """A template of this package, with what all pages have and `values`; needs no network."""
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
    script = files("eval").joinpath("templates/report.js").read_text("utf-8")
    return environment.get_template(template).render(
        **values,
        scores=scores,
        result=result,
        outputs={name: result.systems[name] for name in scores.models},
        percents={name: (100 * result.values[name]).tolist() for name in scores.models},
        metrics={metric: HEADERS[metric] for metric in scores.metrics},
        baselines={n: text for n, text in BASELINES.items() if n in scores.systems},
        mistakes=MISTAKES,
        similarity=ABOUT_SIMILARITY if SIMILARITY in scores.metrics else "",
        sure=number(scores.bootstrap.confidence, ".0%"),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _headline(scores: Scores) -> list[str]:
    """The conclusion, then the paired tests of base and tuned, and of tuned and each baseline.

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
        return [conclusion(scores), f"{verdict(pair, settings)} {agree}"]
    score = scores.systems[main].scores[PRIMARY]
    own = (
        f"{main} scores {score.f1:.2f} ROUGE-L ({number(settings.confidence, '.0%')} interval "
        f"{score.low:.2f} to {score.high:.2f}) on {scores.examples:,} dialogues."
    )
    return [own, *filter(None, [conclusion(scores)])]


def marked(text: str, other: str) -> Markup:
    """The text, its words that the other text does not have at that place within `<mark>`.

    Case and punctuation around a word do not count; words run from blank to blank.
    """
    words = list(re.finditer(r"\S+", text))
    wanted, found = (
        [re.sub(r"^\W+|\W+$", "", word).casefold() or word for word in one]
        for one in (other.split(), [word[0] for word in words])
    )
    parts, end = [], 0
    for kind, _, _, start, stop in SequenceMatcher(None, wanted, found, False).get_opcodes():
        if kind == "equal" or start == stop:
            continue
        begin, after = words[start].start(), words[stop - 1].end()
        parts += [escape(text[end:begin]), Markup("<mark>{}</mark>").format(text[begin:after])]
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
