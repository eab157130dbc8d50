"""The report's charts: bars, differences, length, training; each function gives one `<svg>`."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean, median
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from eval.diagnosis import BINS
from eval.stats import signed

INK, MUTED, RULE, FIRST, LAST, OTHER, WORSE, PAPER = (f"#0{n}0{n}0{n}" for n in range(1, 9))
VARIABLES = {
    INK: "ink", MUTED: "muted", RULE: "rule", FIRST: "first", LAST: "last", OTHER: "other",
    WORSE: "worse", PAPER: "paper",
}  # fmt: skip
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False,
    "font.size": 14, "axes.labelsize": 14, "xtick.labelsize": 14, "ytick.labelsize": 14,
    "axes.titlesize": 14, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "legend.fontsize": 14, "legend.frameon": False, "text.color": INK, "axes.labelcolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED, "axes.edgecolor": MUTED, "axes.facecolor": "none",
    "figure.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "grid.color": RULE, "grid.linewidth": 0.8, "xtick.major.size": 0,
    "ytick.major.size": 0, "lines.linewidth": 1.8,
}  # fmt: skip
WIDTH, POINTS = 460, 72  # of a chart, in the SVG's units; units to matplotlib's inch

BIN = 5  # ROUGE points, the width of a bar of the histogram
Curve = Sequence[Sequence[float]]


def colours(models: Sequence[str]) -> dict[str, str]:
    """The colour of each model: the last one is the tuned one, or the only one."""
    return {name: LAST if name == models[-1] else FIRST for name in models}


def bars(systems: Mapping[str, Any], metrics: Mapping[str, str]) -> Markup:
    """F1 of each system with its interval, a panel for each metric (`{"rouge1": "ROUGE-1"}`)."""
    names = list(systems)
    paint = colours([name for name in names if systems[name]["kind"] == "model"])
    with style():
        figure = new_figure(len(metrics) * (21 * len(names) + 28) + 12)
        panels = figure.subplots(len(metrics), sharex=True, squeeze=False)[:, 0]
        for axes, (metric, title) in zip(panels, metrics.items(), strict=True):
            found = [systems[name]["scores"][metric] for name in names]
            means = [one["f1"] for one in found]
            below = [max(0.0, one["f1"] - one["low"]) for one in found]
            above = [max(0.0, one["high"] - one["f1"]) for one in found]
            axes.barh(names, means, 0.7, color=[paint.get(name, OTHER) for name in names])
            for colour, width in ((PAPER, 3.6), (INK, 1.2)):  # a rim, to show on a bar as well
                axes.errorbar(
                    means, names, xerr=[below, above], fmt="none", color=colour,
                    elinewidth=width, capthick=width, capsize=3 + width / 2,
                )  # fmt: skip
            for place, (mean, more) in enumerate(zip(means, above, strict=True)):
                axes.text(mean + more + 1, place, f"{mean:.2f}", va="center")
            axes.set_title(title)
            axes.invert_yaxis()
            axes.spines[["left", "bottom"]].set_visible(False)
            axes.xaxis.set_visible(False)
        top = max(one["scores"][metric]["high"] for one in systems.values() for metric in metrics)
        panels[0].set_xlim(0, max(1.0, top) * 1.2)
        spoken = "; ".join(
            f"{title}: " + ", ".join(f"{n} {systems[n]['scores'][key]['f1']:.2f}" for n in names)
            for key, title in metrics.items()
        )
        return inline(figure, "bars", f"Bars of the F1 in percent. {spoken}.")


def differences(values: Sequence[float], first: str, second: str) -> Markup:
    """Histogram of the per-example differences, second minus first, in ROUGE points (-100..100)."""
    starts = [start for start in range(-100, 100, BIN)]
    counts = dict.fromkeys(starts, 0)
    for value in values:
        counts[min(100 - BIN, int(value // BIN) * BIN)] += 1
    shown = [start for start in starts if counts[start]]
    low, high = min([0, *shown]), max([0, *shown]) + BIN
    starts = [start for start in starts if low <= start < high]
    with style():
        figure = new_figure(270)
        axes = figure.subplots()
        paint = [WORSE if start < 0 else LAST for start in starts]
        axes.bar(starts, [counts[s] for s in starts], BIN * 0.9, align="edge", color=paint)
        axes.axvline(0, color=INK, linewidth=1)
        mean = fmean(values)
        axes.axvline(mean, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_ylim(0, max(counts.values()) * 1.18)
        to_left = high - mean < 0.35 * (high - low)
        axes.annotate(
            f"mean {signed(mean)}", (mean, 1), (-6 if to_left else 6, 0), va="top",
            xycoords=axes.get_xaxis_transform(), textcoords="offset points",
            ha="right" if to_left else "left", bbox={"color": PAPER, "pad": 1},
        )  # fmt: skip
        axes.set_xlabel(f"ROUGE-L of {second} minus {first}, in points")
        axes.set_ylabel("dialogues")
        grid(axes)
        return inline(
            figure,
            "differences",
            f"Histogram of the ROUGE-L differences of {len(values)} dialogues, {second} minus "
            f"{first}, from {min(values):.1f} to {max(values):.1f}, mean {mean:.2f}.",
        )


def by_length(
    words: Sequence[int], scores: Mapping[str, Sequence[float]], groups: Sequence[Mapping[str, Any]]
) -> Markup:
    """ROUGE-L in percent against the words of the dialogue: each example, and each group's mean."""
    paint = colours(list(scores))
    places = [max(1, count) for count in words]  # the axis is logarithmic
    middles = _middles(places)
    with style():
        figure = new_figure(320)
        axes = figure.subplots()
        for (name, values), mark in zip(scores.items(), "soD^v", strict=False):
            axes.plot(
                places, values, mark, color=paint[name], alpha=0.3, markersize=4.5,
                markeredgewidth=0, zorder=1,
            )  # fmt: skip
            means = [group["rougeL"][name] for group in groups]
            xs = [middles[group["label"]] for group in groups]
            axes.plot(
                xs, means, f"{mark}-", color=paint[name], markersize=8, markeredgecolor=PAPER,
                linewidth=2.4, label=name,
            )  # fmt: skip
        axes.set_xscale("log")
        ticks = [n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)]
        low, high = min(places) * 0.9, max(places) * 1.1
        axes.set_xlim(low, high)
        axes.set_xticks([n for n in ticks if low <= n <= high] or [places[0]])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0, 102)
        axes.set_xlabel("words of the dialogue")
        axes.set_ylabel("ROUGE-L")
        grid(axes)
        figure.legend(loc="outside upper left", ncols=len(scores))
        spoken = "; ".join(
            f"{group['label']} words: "
            + ", ".join(f"{name} {group['rougeL'][name]:.2f}" for name in scores)
            for group in groups
        )
        return inline(figure, "length", f"ROUGE-L against the dialogue's length. Means: {spoken}.")


def curves(series: Mapping[str, Curve], name: str, ylabel: str) -> Markup:
    """Lines of values by training step; a short one has its points marked; empty ones left out."""
    drawn = {label: curve for label, curve in series.items() if curve}
    with style():
        figure = new_figure(270)
        axes = figure.subplots()
        looks = [(LAST, "-", "o"), (FIRST, "--", "s"), (INK, ":", "D"), (OTHER, "-.", "^")]
        for place, (label, curve) in enumerate(drawn.items()):
            colour, line, mark = looks[place % len(looks)]
            axes.plot(
                [point[0] for point in curve], [point[1] for point in curve], line,
                color=colour, label=label, marker=mark if len(curve) <= 30 else None, markersize=5,
            )  # fmt: skip
        axes.set_xlabel("step")
        axes.set_ylabel(ylabel)
        grid(axes)
        figure.legend(loc="outside upper left", ncols=min(3, len(drawn)))
        ends = ", ".join(f"{label} {curve[-1][1]:.4g} at the end" for label, curve in drawn.items())
        return inline(figure, name, f"{ylabel[0].upper()}{ylabel[1:]} by training step: {ends}.")


def _middles(words: Sequence[int]) -> dict[str, float]:
    """The median length of the dialogues in each group of BINS."""
    found: dict[str, list[int]] = {}
    for count in words:
        label = next(label for label, most in BINS["words"].items() if count <= most)
        found.setdefault(label, []).append(count)
    return {label: median(counts) for label, counts in found.items()}


@contextmanager
def style() -> Iterator[None]:
    """A context in which nobody's own matplotlibrc counts."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def new_figure(height: float) -> Figure:
    """An empty figure, WIDTH by `height` units."""
    return Figure((WIDTH / POINTS, height / POINTS), layout="constrained")


def grid(axes: Axes) -> None:
    """Horizontal lines in place of the vertical axis."""
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)


def inline(figure: Figure, name: str, label: str) -> Markup:
    """The figure as one `<svg>` that may stand beside others: ids its own, no style for the page.

    A `<style>` within inline SVG would hold for the whole page, so it is taken out.
    """
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing)
    svg = file.getvalue()
    box = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    used = set(re.findall(r"[\"(]#(\w+)[\")]", body))
    body = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", body)
    body = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", body).replace("xlink:href", "href")
    body = re.sub(r"(\d\.\d\d)\d+", r"\1", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r">\s+<", "><", body)
    opening = Markup('<svg class="chart" {} role="img" aria-label="{}">')
    return opening.format(Markup(box[0] if box else ""), label) + Markup(body.strip())
