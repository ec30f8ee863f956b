"""Pictures of a report: SVG that takes its colours from the page, so that it follows light, dark and print."""

import io
import re
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

# Colours that occur in no other role; the page's own take their place in the finished SVG.
_COLOURS = {"#010101": "var(--ink)", "#020202": "var(--muted)", "#030303": "var(--line)", "#040404": "var(--accent)"}
_INK, _MUTED, _LINE, _ACCENT = _COLOURS

_UNWANTED = (
    r"<metadata>.*?</metadata>",
    r"<style.*?</style>",  # would hold for the whole page
    r' id="[a-z][\w.]*_\d+"',  # figure_1, axes_1, ...: the same in every panel of a page
    r" font-family: [^;]*;",  # the page's font
    r' (width|height)="[\d.]+pt"',  # the page's width
    r"\s*<g/>",
)

_WIDTH, _HEIGHT = 2.3, 1.45  # inches; 72 points each in the SVG


def draw_depths(points: Sequence[tuple[int, float]], *, limits: tuple[float, float], name: str) -> str:
    """An SVG of ``amax`` (logarithmic) over depth: a dot for each point, a line through the largest of each depth.

    Args:
        points: ``(depth, amax)``, amax above 0.
        limits: the lowest and highest amax shown, shared by the panels that are compared.
        name: makes the SVG's internal names unique in the page.
    """
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 8.5, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        depths = sorted({depth for depth, _ in points})
        peaks = [max(amax for at, amax in points if at == depth) for depth in depths]
        axes.plot(depths, peaks, color=_ACCENT, linewidth=1.4)
        axes.plot(*zip(*points, strict=True), linestyle="none", marker="o", markersize=2.6, color=_ACCENT)
        axes.set_yscale("log")
        axes.set_ylim(limits[0] / 1.5, limits[1] * 1.5)
        axes.set_xlim(depths[0] - 0.4, depths[-1] + 0.4)
        _quieten(axes)
        return _write_svg(figure)


def _quieten(axes: Axes) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_LINE)
    axes.set_facecolor("none")
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(LogLocator(numticks=4))
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.minorticks_off()


def _write_svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for pattern in _UNWANTED:
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    for placeholder, colour in _COLOURS.items():
        text = text.replace(placeholder, colour)
    return text
