"""matplotlib figures as inline SVG: same data, same bytes, in the colours of the page around them.

Figures are drawn in stand-in colours, which `inline` turns into the style sheet's variables.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
