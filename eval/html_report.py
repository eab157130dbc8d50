"""The report as one page that works offline: `report.html`.

Corpus text enters the page only through Jinja's escaping, and the page's Content-Security-Policy
allows no script but its own.
"""

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.resources import files as package_files
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from eval.analysis import Analysis
from eval.baselines import BASELINES
from eval.diagnosis import MISTAKES, speakers, unknown_places
from eval.metrics import SIMILARITY, Array
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

# The training settings shown in the table; the whole recipe is below it.
SETTINGS = (
    r"adapter|(q?lora|peft)_\w+|load_in_\dbit|learning_rate|lr_scheduler|optimizer|num_epochs"
    r"|max_steps|warmup_\w+|micro_batch_size|gradient_accumulation_steps|sequence_len"
    r"|sample_packing|bf16|seed|summarization\.(source|train_rows)"
)
INVENTED = "not in the dialogue"
MAX_PAIRS = 250_000  # pairs of words; two texts with more of them are not aligned
# `templates/report.css` styles the charts: the classes `first` (the base model), `last` (the tuned
# one), `other` and `worse` are colours, each defined for light and for dark mode.
WIDTH = 380  # of a chart, in units of about one pixel on the page
HEIGHT = 230  # of a chart with axes
LINE = 24  # height of a bar with its gap; text is 14 units high
LETTER = 8  # mean width of a character, rounded up, to place things after a text
BIN = 5  # ROUGE points, the width of a bar of the histogram
MARKED = 30  # each point is marked on curves with at most this many points
SMOOTHED = 6  # a loss with this many points is smoothed, over a tenth of them on either side
TRAINING = {  # what training logs besides losses: the chart's name, and its y label
    "learning_rate": ("rate", "learning rate"),
    "tokens/train_per_sec_per_gpu": ("speed", "trained tokens/s per process"),
}
Points = Sequence[Sequence[float]]  # [x, y] pairs


def html_report(
    result: Analysis,
    curves: Mapping[str, Points],
    recipe_text: str | None,
    files: Sequence[str] = (),
) -> str:
    """Return the whole page; the same data gives the same bytes.

    `curves`: what training logged, as [step, value] pairs, by the trainer's names (`eval_loss`);
    `files`: names of the files beside the page to link to.
    """
    scores = result.scores
    return page(
        "report.html.j2",
        result,
        headline=_headline(scores),
        adapter_sentence=adapter_sentence(scores),
        charts=draw(result, curves),
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
    """Render a template of this package with `values` and what all pages share.

    `last`: the model to compare with the first one in the examples.
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
    """Return the indices of the examples at the top of a page: typical, best and worst.

    Chosen by the difference in ROUGE-L between `last` and the first model, or by a single model's
    score; in the typical example, score and difference are nearest to their medians.
    """
    first, column = result.scores.models[0], result.scores.metrics.index(PRIMARY)
    score = result.values[last][:, column]
    values = score - result.values[first][:, column] if first != last else score
    distance = abs(values - np.median(values)) + abs(score - np.median(score))
    best, worst = ("Best gain", "Worst regression") if first != last else ("Best", "Worst")
    if first != last and values.min() >= 0:
        worst = "Least gain"
    indices = {"Typical": distance.argmin(), best: values.argmax(), worst: values.argmin()}
    return {title: int(index) for title, index in indices.items()}


def _headline(scores: Scores) -> list[str]:
    """Return the conclusion, then the counts of dialogues and whether the other metrics agree.

    A report on one model begins with its score.
    """
    settings, main = scores.bootstrap, scores.main
    pairs = {pair.systems: pair for pair in scores.comparisons}
    if pair := pairs.get((scores.models[0], main)):
        outcomes = {name: outcome(test, settings.confidence) for name, test in pair.metrics.items()}
        others = [name for name in outcomes if name != PRIMARY]
        differing = [name for name in others if outcomes[name] != outcomes[PRIMARY]]
        listed = ", ".join(HEADERS[name] for name in differing or others)
        listed = " and ".join(listed.rsplit(", ", 1))
        agreement = f"{listed} agree."
        if differing:
            agreement = f"This is different for {listed}: see the paired tests."
        counts = (
            f"Better than {pair.systems[0]} in {pair.better:,} of {scores.examples:,} dialogues, "
            f"worse in {pair.worse:,}, equal in {pair.equal:,}."
        )
        return [conclusion(scores), f"{counts} {agreement}"]
    score = scores.systems[main].scores[PRIMARY]
    sentence = (
        f"{main} scores {score.f1:.2f} ROUGE-L ({number(settings.confidence, '.0%')} interval "
        f"{score.low:.2f} to {score.high:.2f}) on {scores.examples:,} dialogues."
    )
    return [sentence, *filter(None, [conclusion(scores)])]


def marked(text: str, other: str, dialogue: str = "") -> Markup:
    """Return the text with `<mark>` around words that the other text does not have at that place.

    The class is `invented` if they contain a name, number or date that is not in the dialogue.
    Case and punctuation around a word are ignored; words are separated by white space. In long
    texts, only the words that are nowhere in the other text are marked.
    """
    matches = list(re.finditer(r"\S+", text))
    others, words = (
        [re.sub(r"^\W+|\W+$", "", word).casefold() or word for word in texts]
        for texts in (other.split(), [match[0] for match in matches])
    )
    if len(others) * len(words) > MAX_PAIRS:  # repeated words would take cubic time to align
        known = set(others)
        kinds = ["" if word in known else "differs" for word in words]
    else:
        kinds = [""] * len(matches)
        for kind, _, _, start, stop in SequenceMatcher(None, others, words, False).get_opcodes():
            if kind != "equal":
                kinds[start:stop] = ["differs"] * (stop - start)
    for start, stop in unknown_places(text, dialogue) if dialogue else ():
        for n, match in enumerate(matches):
            if start < match.end() and match.start() < stop:
                kinds[n] = "invented"
    opening = {"differs": "<mark>", "invented": f'<mark class="invented" title="{INVENTED}">'}
    parts, end = [], 0
    for kind, group in groupby(zip(kinds, matches, strict=True), key=itemgetter(0)):
        _, adjacent = zip(*group, strict=True)
        start, stop = adjacent[0].start(), adjacent[-1].end()
        if kind:
            parts += [escape(text[end:start]), Markup(opening[kind]), escape(text[start:stop])]
            parts.append(Markup("</mark>"))
            end = stop
    return Markup("").join([*parts, escape(text[end:])])


def chat(dialogue: str) -> Markup:
    """Return the dialogue with the names of its speakers in bold."""
    names = set(speakers(dialogue))
    lines = []
    for line in dialogue.splitlines():
        name, *rest = re.split(r"(?<=[:：])", line, maxsplit=1)
        bold = rest and name[:-1].strip() in names
        lines.append(Markup("<b>{}</b>{}").format(name, rest[0]) if bold else escape(line))
    return Markup("\n").join(lines)


# ---- the charts: bars, differences, training; one `<svg>` each ----


def draw(result: Analysis, curves: Mapping[str, Points]) -> dict[str, Markup]:
    """Draw the charts that there is data for; returns them by name."""
    scores = result.scores
    first, last = scores.models[0], scores.main
    drawn = {"bars": _bars(scores)}
    if first != last:
        column = scores.metrics.index(PRIMARY)
        values = 100 * (result.values[last] - result.values[first])[:, column]
        title = f"ROUGE-L of {last} minus {first}, in points"
        drawn["differences"] = _differences(values, title)
    titles = {"loss": "training", "eval_loss": "validation"}
    if losses := {titles[name]: curve for name, curve in curves.items() if name in titles}:
        drawn["loss"] = _curves(losses, "loss", smoothed="training")
    titles = {f"eval_{metric}": title for metric, title in HEADERS.items()}
    if rouge := {titles[name]: curve for name, curve in curves.items() if name in titles}:
        drawn["rouge"] = _curves(rouge, "validation")
    for name, (chart, title) in TRAINING.items():
        if name in curves:
            drawn[chart] = _curves({"": curves[name]}, title)
    return drawn


def _bars(scores: Scores) -> Markup:
    """Draw each system's ROUGE-L with its interval."""
    left = LETTER * max(map(len, scores.systems)) + 10.0
    rouge_l = {name: system.scores[PRIMARY] for name, system in scores.systems.items()}
    unit = (WIDTH - left - 50) / max(1.0, *(score.high for score in rouge_l.values()))
    parts, y = [_text(HEADERS[PRIMARY], 0, 14, "muted")], 18
    for name, score in rouge_l.items():
        y += LINE
        low, high = left + score.low * unit, left + score.high * unit
        whisker = f"M{low:.1f},{y - 7}H{high:.1f}m0,-4v8M{low:.1f},{y - 11}v8"
        parts += [
            _text(name, left - 8, y - 2, "end"),
            _bar(_colour(scores, name), left, y - 16, score.f1 * unit, 18),
            _path("rim", whisker),  # in the background's colour, so that it shows on the bar too
            _path("whisker", whisker),
            _text(f"{score.f1:.2f}", high + 7, y - 2),
        ]
    return _svg(y + 6, "Bars of each system's ROUGE-L in percent, as in the table.", parts)


def _differences(values: Array, title: str) -> Markup:
    """Draw a histogram of the examples' differences."""
    counts = Counter(min(100 - BIN, math.floor(value / BIN) * BIN) for value in values)
    x_range, highest = (min(0, *counts), max(0, *counts) + BIN), max(counts.values())
    frame = _Frame(x_range, (0, 1.15 * highest), "dialogues")
    parts = frame.axes(title)
    for start, count in counts.items():
        (x, y), (end, bottom) = frame.at(start + 0.3, count), frame.at(start + BIN - 0.3, 0)
        parts.append(_bar("worse" if start < 0 else "last", x, y, end - x, bottom - y))
    mean = values.mean()
    for classes, value in (("whisker", 0), ("whisker dashed", mean)):
        x = frame.at(value, 0)[0]
        parts.append(_path(classes, f"M{x:.1f},{frame.bottom}V{frame.top}"))
    alignment, label_x = ("end halo", x - 6) if x > WIDTH * 0.7 else ("halo", x + 6)
    parts.append(_text(f"mean {signed(mean)}", label_x, frame.top + 12, alignment))
    label = (
        f"Histogram of {len(values)} dialogues by {title}, from {min(values):.1f} to "
        f"{max(values):.1f}, mean {mean:.2f}."
    )
    return _svg(HEIGHT, label, parts)


def _curves(series: Mapping[str, Points], ylabel: str, smoothed: str | None = None) -> Markup:
    """Draw curves of values by training step; short ones have their points marked.

    The curve named `smoothed` is smoothed, with its points behind it.
    """
    steps, values = zip(*(point for curve in series.values() for point in curve), strict=True)
    margin = 0.05 * (max(values) - min(values)) or 0.1 * abs(max(values)) or 0.5
    y_range = (min(values) - margin, max(values) + margin)
    frame = _Frame((min(0, *steps), max(1, *steps)), y_range, ylabel)
    colours = dict(zip(series, ("last", "first", "ink", "other") * len(series), strict=False))
    parts = frame.axes("step")
    for name, curve in series.items():
        if name == smoothed and len(curve) >= SMOOTHED:
            parts.append(frame.dots(curve, f"faint {colours[name]}"))
            parts.append(frame.line(_smooth(curve), colours[name]))
        else:
            parts.append(frame.line(curve, colours[name]))
            if len(curve) <= MARKED:
                parts.append(frame.dots(curve, colours[name]))
    if len(series) > 1:
        parts += frame.legend(colours)
    last_values = ", ".join(f"{name} {curve[-1][1]:.4g}".strip() for name, curve in series.items())
    label = f"{ylabel[0].upper()}{ylabel[1:]} by training step: {last_values} at the end."
    return _svg(HEIGHT, label, parts)


def _smooth(curve: Points) -> Points:
    """Return the weighted mean of each point and its neighbours; the nearest weigh most."""
    steps, values = np.transpose(np.array(curve, float))
    weights = np.hanning(2 * max(1, len(values) // 10) + 3)
    sums, totals = (np.convolve(array, weights, "same") for array in (values, np.ones(len(values))))
    return np.stack([steps, sums / totals], axis=1).tolist()


@dataclass
class _Frame:
    """A chart's axes `x` and `y`, from first to last value; makes grid, labels, lines and dots."""

    x: tuple[float, float]
    y: tuple[float, float]
    ylabel: str
    left, right, top, bottom = 56, WIDTH - 12, 26, HEIGHT - 46

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = np.interp(x, self.x, (self.left, self.right))
        return float(across), float(np.interp(y, self.y, (self.bottom, self.top)))

    def axes(self, xlabel: str) -> list[Markup]:
        parts = [_text(self.ylabel, 0, 14, "muted")]
        for value, label in _ticks(*self.y).items():
            y = self.at(0, value)[1]
            parts.append(_path("grid", f"M{self.left},{y:.1f}H{self.right}"))
            parts.append(_text(label, self.left - 8, y + 5, "muted end"))
        for value, label in _ticks(*self.x).items():
            parts.append(_text(label, self.at(value, 0)[0], self.bottom + 20, "muted middle"))
        middle = (self.left + self.right) / 2
        return [*parts, _text(xlabel, middle, self.bottom + 40, "muted middle")]

    def legend(self, colours: Mapping[str, str]) -> list[Markup]:
        """Return a line and a name for each series, to the right of the y axis's label."""
        parts, x = [], self.left + LETTER * len(self.ylabel)
        for name, colour in colours.items():
            parts += [_path(f"line {colour}", f"M{x},9h24"), _text(name, x + 30, 14)]
            x += 46 + LETTER * len(name)
        return parts

    def line(self, points: Points, colour: str) -> Markup:
        coordinates = ("{:.1f},{:.1f}".format(*self.at(*point)) for point in points)
        return _path(f"line {colour}", "M" + "L".join(coordinates))

    def dots(self, points: Points, classes: str) -> Markup:
        """Return dots as strokes of zero length with round or square caps: few bytes per dot."""
        coordinates = ("M{:.1f},{:.1f}h0".format(*self.at(*point)) for point in points)
        return _path(f"dots {classes}", "".join(coordinates))


def _colour(scores: Scores, name: str) -> str:
    return {scores.models[0]: "first", scores.main: "last"}.get(name, "other")


def _ticks(low: float, high: float) -> dict[float, str]:
    """Return three to six round values between two values, each with its label."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step *= next(factor for factor in (1, 2, 5) if (high - low) / (step * factor) < 6)
    values = [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    texts = (  # 8e-4: a learning rate written in full does not fit
        f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
        if 0 < value < 1e-3
        else f"{value:.6g}"
        for value in values
    )
    return {value: text.replace("-", "−") for value, text in zip(values, texts, strict=True)}


def _svg(height: int, label: str, parts: Sequence[Markup]) -> Markup:
    svg = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return svg.format(WIDTH, height, label, Markup("").join(parts))


def _text(text: str, x: float, y: float, classes: str = "") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(classes, x, y, text)


def _bar(colour: str, x: float, y: float, width: float, height: float) -> Markup:
    rect = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    return rect.format(colour, x, y, width, height)


def _path(classes: str, d: str) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(classes, d)
