"""The report's charts: bars, differences, length, training; each is one `<svg>`.

`templates/report.css` styles them: the classes `first` (the base model), `last` (the tuned one),
`other` and `worse` are colours, which the page has twice, for its light and its dark theme.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from eval.analysis import Analysis
from eval.diagnosis import groups
from eval.metrics import METRICS, Array
from eval.report import HEADERS
from eval.scores import PRIMARY, Scores
from eval.stats import signed

WIDTH = 460  # of a chart in units; the page shows a unit as about one pixel
HEIGHT = 280  # of a chart with axes
LINE = 21  # height of a bar with its gap; a text is 14 units high
LETTER = 8  # mean width of a letter, generously, for what is placed after a text
BIN = 5  # ROUGE points, the width of a bar of the histogram
MARKED = 30  # points of a curve up to which each of them is marked
Points = Sequence[Sequence[float]]  # [x, y] pairs


def draw(result: Analysis, curves: Mapping[str, Points]) -> dict[str, Markup]:
    """The charts that the data allow, by name."""
    scores, dialogues = result.scores, result.corpus.dialogues
    first, last = scores.models[0], scores.main
    of_models = {name: result.values[name] for name in scores.models}
    rouge_l = {name: 100 * of[:, METRICS.index(PRIMARY)] for name, of in of_models.items()}
    drawn = {"bars": _bars(scores)}
    if first != last:
        title = f"ROUGE-L of {last} minus {first}, in points"
        drawn["differences"] = _differences(rouge_l[last] - rouge_l[first], title)
    if dialogues and scores.groups:
        drawn["length"] = _by_length(dialogues, rouge_l, scores)
    titles = {"loss": "training", "eval_loss": "validation"}
    if losses := {titles[name]: curve for name, curve in curves.items() if name in titles}:
        drawn["loss"] = _curves(losses, "loss")
    titles = {f"eval_{metric}": title for metric, title in HEADERS.items()}
    if rouge := {titles[name]: curve for name, curve in curves.items() if name in titles}:
        drawn["rouge"] = _curves(rouge, "ROUGE on validation rows")
    return drawn


def _bars(scores: Scores) -> Markup:
    """Each system's score with its interval, a panel for each metric."""
    shown = [metric for metric in scores.metrics if metric != "rougeLsum"]
    left = LETTER * max(map(len, scores.systems)) + 10.0
    highest = max(s.scores[metric].high for s in scores.systems.values() for metric in shown)
    unit = (WIDTH - left - 50) / max(1.0, highest)
    parts, y = [], 0
    for metric in shown:
        y += LINE
        parts.append(_text(HEADERS[metric], 0, y - 5, "title"))
        for name, system in scores.systems.items():
            y += LINE
            score = system.scores[metric]
            low, high = left + score.low * unit, left + score.high * unit
            whisker = f"M{low:.1f},{y - 6}H{high:.1f}m0,-4v8M{low:.1f},{y - 10}v8"
            parts += [
                _text(name, left - 8, y - 1, "end"),
                _bar(_colour(scores, name), left, y - 14, score.f1 * unit, 16),
                _path("rim", whisker),  # of the paper's colour, to show it on the bar too
                _path("whisker", whisker),
                _text(f"{score.f1:.2f}", high + 7, y - 1),
            ]
        y += 8
    return _svg(y, "Bars of each system's scores in percent, as in the table.", parts)


def _differences(values: Array, title: str) -> Markup:
    """Histogram of the examples' differences."""
    counts = Counter(min(100 - BIN, math.floor(value / BIN) * BIN) for value in values)
    ends, highest = (min(0, *counts), max(0, *counts) + BIN), max(counts.values())
    frame = _Frame(ends, (0, 1.15 * highest), "dialogues")
    parts = frame.axes(title)
    for start, count in counts.items():
        (x, y), (end, bottom) = frame.at(start + 0.3, count), frame.at(start + BIN - 0.3, 0)
        parts.append(_bar("worse" if start < 0 else "last", x, y, end - x, bottom - y))
    mean = values.mean()
    for classes, value in (("whisker", 0), ("whisker dashed", mean)):
        x = frame.at(value, 0)[0]
        parts.append(_path(classes, f"M{x:.1f},{frame.bottom}V{frame.top}"))
    side, place = ("end halo", x - 6) if x > WIDTH * 0.7 else ("halo", x + 6)
    parts.append(_text(f"mean {signed(mean)}", place, frame.top + 12, side))
    label = (
        f"Histogram of {len(values)} dialogues by {title}, from {min(values):.1f} to "
        f"{max(values):.1f}, mean {mean:.2f}."
    )
    return _svg(HEIGHT, label, parts)


def _by_length(dialogues: Sequence[str], rouge_l: dict[str, Array], scores: Scores) -> Markup:
    """ROUGE-L against the words of the dialogue: each example, and the mean of each group."""
    words = np.array([max(1, len(dialogue.split())) for dialogue in dialogues])  # 1: log(0)
    logs = np.log10(words)
    frame = _Frame((logs.min() - 0.05, logs.max() + 0.05), (0, 100), "ROUGE-L")
    ticks = [digit * 10**power for power in range(6) for digit in (1, 2, 5)]
    shown = {math.log10(n): str(n) for n in ticks if words.min() <= n <= words.max()}
    shown = shown or {math.log10(n): str(n) for n in (words.min(), words.max())}
    parts = frame.axes("words of the dialogue", shown)
    colours = {name: _colour(scores, name) for name in rouge_l}
    lines = frame.legend(colours)
    bins = [places for _, places in groups(dialogues)["words"]]
    for name, values in rouge_l.items():
        parts.append(frame.dots(list(zip(logs, values, strict=True)), f"faint {colours[name]}"))
        means = [(np.log10(np.median(words[places])), values[places].mean()) for places in bins]
        lines += [frame.line(means, "rim"), frame.line(means, colours[name])]
        lines += [frame.dots(means, "rim"), frame.dots(means, f"big {colours[name]}")]
    return _svg(HEIGHT, "ROUGE-L against the dialogue's length, as in the table.", parts + lines)


def _curves(series: Mapping[str, Points], ylabel: str) -> Markup:
    """Lines of values by training step; a short one has its points marked."""
    steps, values = zip(*(point for curve in series.values() for point in curve), strict=True)
    margin = 0.05 * (max(values) - min(values)) or 0.5
    ends = (min(values) - margin, max(values) + margin)
    frame = _Frame((min(0, *steps), max(1, *steps)), ends, ylabel)
    colours = dict(zip(series, ("last", "first", "ink", "other") * len(series), strict=False))
    parts = frame.axes("step") + frame.legend(colours)
    for name, curve in series.items():
        parts.append(frame.line(curve, colours[name]))
        if len(curve) <= MARKED:
            parts.append(frame.dots(curve, colours[name]))
    at_end = ", ".join(f"{name} {curve[-1][1]:.4g} at the end" for name, curve in series.items())
    label = f"{ylabel[0].upper()}{ylabel[1:]} by training step: {at_end}."
    return _svg(HEIGHT, label, parts)


@dataclass
class _Frame:
    """Axes of a chart, each with its first and last value: grid, labels, lines and dots."""

    x: tuple[float, float]
    y: tuple[float, float]
    ylabel: str
    left, right, top, bottom = 46, WIDTH - 12, 26, HEIGHT - 46

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = np.interp(x, self.x, (self.left, self.right))
        return float(across), float(np.interp(y, self.y, (self.bottom, self.top)))

    def axes(self, xlabel: str, xticks: Mapping[float, str] | None = None) -> list[Markup]:
        parts = [_text(self.ylabel, 0, 14, "muted")]
        for value, label in _ticks(*self.y).items():
            y = self.at(0, value)[1]
            parts.append(_path("grid", f"M{self.left},{y:.1f}H{self.right}"))
            parts.append(_text(label, self.left - 8, y + 5, "muted end"))
        for value, label in (xticks or _ticks(*self.x)).items():
            parts.append(_text(label, self.at(value, 0)[0], self.bottom + 20, "muted middle"))
        middle = (self.left + self.right) / 2
        return [*parts, _text(xlabel, middle, self.bottom + 40, "muted middle")]

    def legend(self, colours: Mapping[str, str]) -> list[Markup]:
        """Line and name of each series, right of the label of the y axis."""
        parts, x = [], self.left + LETTER * len(self.ylabel)
        for name, colour in colours.items():
            parts += [_path(f"line {colour}", f"M{x},9h24"), _text(name, x + 30, 14)]
            x += 46 + LETTER * len(name)
        return parts

    def line(self, points: Points, colour: str) -> Markup:
        places = ("{:.1f},{:.1f}".format(*self.at(*point)) for point in points)
        return _path(f"line {colour}", "M" + "L".join(places))

    def dots(self, points: Points, classes: str) -> Markup:
        """Dots as strokes of no length, whose caps are round or square: few bytes a dot."""
        places = ("M{:.1f},{:.1f}h0".format(*self.at(*point)) for point in points)
        return _path(f"dots {classes}", "".join(places))


def _colour(scores: Scores, name: str) -> str:
    return {scores.models[0]: "first", scores.main: "last"}.get(name, "other")


def _ticks(low: float, high: float) -> dict[float, str]:
    """Three to six round values between two values, each with its label."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step *= next(factor for factor in (1, 2, 5) if (high - low) / (step * factor) < 6)
    values = [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return {value: f"{value:.6g}".replace("-", "−") for value in values}


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
