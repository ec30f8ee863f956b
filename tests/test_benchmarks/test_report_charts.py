"""Pictures: well-formed SVG, coloured by the page, the same for the same data."""

import re
from xml.etree import ElementTree

import matplotlib as mpl

from benchmarks.report_charts import draw_depths

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
    assert "<use" in draw_depths([(0, 3.0)], limits=(3.0, 3.0), name="one")
