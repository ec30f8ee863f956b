"""Pictures of a report: SVG that takes its colours from the page, so that it follows light, dark and print."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

# Colours that occur in no other role; the page's own take their place in the finished SVG.
_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--accent)",
    "#050505": "var(--warn)",
}
_INK, _MUTED, _LINE, _ACCENT, _WARN = _COLOURS

_UNWANTED = (
    r"<metadata>.*?</metadata>",
    r"<style.*?</style>",  # would hold for the whole page
    r' id="[a-z][\w.]*_\d+"',  # figure_1, axes_1, ...: the same in every panel of a page
    r" font-family: [^;]*;",  # the page's font
    r' (width|height)="[\d.]+pt"',  # the page's width
    r"\s*<g/>",
)

_WIDTH, _HEIGHT = 2.3, 1.45  # inches; 72 points each in the SVG
_RIDGE = 0.17
"""Inches a depth."""

_OVERLAP = 1.5
"""How many depths high the highest bin is."""

_OCTAVES = 13
"""How far below the highest magnitude ridges are shown."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Ridge:
    """The histogram of a tensor at one depth, and the range it is clipped to.

    Attributes:
        depth: the layer.
        edges: of the bins, rising, one more than ``counts``.
        counts: how many values each holds.
        amax: the range.
    """

    depth: int
    edges: Sequence[float]
    counts: Sequence[int]
    amax: float


def draw_ridges(ridges: Sequence[Ridge], *, highest: float, depths: tuple[int, int], name: str) -> str:
    """An SVG of histograms one below the other, magnitudes logarithmic, with a mark at each range.

    Heights are square roots of counts, so that rare values show; each ridge has its own scale. What lies beyond its
    range has the colour of warnings.

    Args:
        ridges: at least one.
        highest: the largest magnitude, shared by the panels that are compared.
        depths: the first and last depth, shared likewise.
        name: makes the SVG's internal names unique in the page.
    """
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 8.5, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, _RIDGE * (depths[1] - depths[0] + 1) + 0.5), layout="constrained")
        axes = figure.add_subplot()
        for ridge in sorted(ridges, key=lambda each: each.depth):
            _draw_ridge(axes, ridge)
        axes.set_xscale("log")
        axes.set_xlim(highest / 2**_OCTAVES, highest * 1.3)
        axes.set_ylim(depths[1] + 0.25, depths[0] - _OVERLAP - 0.1)
        _quieten(axes)
        axes.grid(visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}" if depths[0] <= value <= depths[1] else "")
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        axes.minorticks_off()
        return _write_svg(figure)


def _draw_ridge(axes: Axes, ridge: Ridge) -> None:
    edges, counts = np.array(ridge.edges), np.array(ridge.counts, dtype=np.float64)
    places = np.concatenate([edges[:1], np.sqrt(edges[1:] * edges[:-1]), edges[-1:]])
    heights = np.concatenate([[0.0], _OVERLAP * np.sqrt(counts / (counts.max() or 1.0)), [0.0]])
    order = ridge.depth  # a ridge lies over those above it
    axes.fill(places, ridge.depth - heights, color=_ACCENT, alpha=0.35, linewidth=0, zorder=order)
    beyond = places > ridge.amax
    if beyond.any():
        at = np.interp(np.log(ridge.amax), np.log(places), heights)
        x = [ridge.amax, ridge.amax, *places[beyond]]
        axes.fill(x, ridge.depth - np.array([0.0, at, *heights[beyond]]), color=_WARN, linewidth=0, zorder=order)
    axes.plot([ridge.amax] * 2, [ridge.depth, ridge.depth - 0.7], color=_INK, linewidth=1.2, zorder=order)


def _quieten(axes: Axes) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_LINE)
    axes.set_facecolor("none")
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
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
    text = re.sub(r"(\.\d\d)\d+(?![\d<])", r"\1", text)  # a hundredth of a point; labels stay whole
    for placeholder, colour in _COLOURS.items():
        text = text.replace(placeholder, colour)
    return text
