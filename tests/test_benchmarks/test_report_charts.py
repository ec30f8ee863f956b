"""Pictures: well-formed SVG, coloured by the page, the same for the same data."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree

import matplotlib as mpl

from benchmarks.report_charts import Ridge, draw_depths, draw_ridges

POINTS = [(0, 1.0), (1, 4.0), (1, 2.0), (2, 100.0)]


def test_the_picture_is_svg_in_the_pages_colours() -> None:
    svg = draw_depths(POINTS, limits=(1.0, 100.0), name="a")
    root = ElementTree.fromstring(svg)  # noqa: S314  (our own text)

    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("width") is None
    assert len(root.findall(".//{http://www.w3.org/2000/svg}use")) == len(POINTS)
    assert set(re.findall(r"var\([^)]*\)", svg)) == {"var(--accent)", "var(--line)", "var(--muted)"}
    assert re.findall(r"#[0-9a-f]{6}\b", re.sub(r"#[mp][0-9a-f]+", "", svg)) == []
    assert "<style" not in svg
    assert "matplotlib" not in svg


def test_the_picture_is_deterministic_and_leaves_matplotlib_as_it_was() -> None:
    before = dict(mpl.rcParams)

    assert draw_depths(POINTS, limits=(1.0, 100.0), name="a") == draw_depths(POINTS, limits=(1.0, 100.0), name="a")
    assert dict(mpl.rcParams) == before


def test_names_keep_two_pictures_apart() -> None:
    first, second = (
        set(re.findall(r'id="([^"]+)"', draw_depths(POINTS, limits=(1.0, 100.0), name=name))) for name in "ab"
    )

    assert first
    assert first & second == set()


def test_one_point_is_enough() -> None:
    svg = draw_depths([(0, 3.0)], limits=(3.0, 3.0), name="one")

    assert "<use" in svg
    assert re.findall(r">(−?[\d.]+)</text>", svg) == ["0"]


RIDGES = [
    Ridge(depth=depth, edges=[1.0, 2.0, 4.0, 8.0, 16.0], counts=[4, 100, 0, 1], amax=amax)
    for depth, amax in ((0, 20.0), (1, 3.0))
]


def ridges(name: str = "a", found: Sequence[Ridge] = RIDGES) -> str:
    return draw_ridges(found, highest=16.0, depths=(0, 1), name=name)


def test_ridges_are_svg_in_the_pages_colours() -> None:
    svg = ridges()

    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314  (our own text)
    assert {"var(--accent)", "var(--warn)", "var(--ink)"} <= set(re.findall(r"var\([^)]*\)", svg))
    assert re.findall(r"#[0-9a-f]{6}\b", re.sub(r"#[mp][0-9a-f]+", "", svg)) == []
    assert svg == ridges()
    assert {"0.01", "0.1", "1", "10"} <= set(re.findall(r">([\d.]+)</text>", svg))
    assert len(svg) < 10_000


def test_only_what_is_clipped_has_the_colour_of_warnings() -> None:
    assert ridges().count("fill: var(--warn)") == 1
    assert "fill: var(--warn)" not in ridges(found=RIDGES[:1])


def test_two_pictures_of_ridges_share_no_name() -> None:
    first, second = (set(re.findall(r'id="([^"]+)"', ridges(name))) for name in "ab")

    assert first & second == set()


def test_a_ridge_without_values_is_no_error() -> None:
    assert "</svg>" in ridges(found=[Ridge(depth=0, edges=[1.0, 2.0], counts=[0], amax=1.5)])
