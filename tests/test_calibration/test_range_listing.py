"""What the manifest says of how ranges were found, and how the ranges of two models differ."""

from pathlib import Path
from typing import Any

import pytest

from calibration.range_listing import compare_ranges, describe_range, find_methods
from calibration.range_rows import RangeRow
from qat.artefacts import write_manifest


def row(name: str = "bert.encoder.layer.1.ffn_quantizer", depth: int = 0, amax: float = 2.0) -> RangeRow:
    return RangeRow(name=name, source="calibrated", depth=depth, amax=amax, scale=amax / 127)


@pytest.mark.parametrize(
    ("facts", "method"),
    [
        ({"calibration": {"method": "mse"}}, "mse"),
        ({"calibration": {"method": "all"}}, "best"),
        ({"calibration": {"method": "mse"}, "edited": {"bert.encoder.layer.1.ffn_quantizer:0": "x2"}}, "x2"),
        ({"calibration": {"method": "mse"}, "edited": {"bert.encoder.layer.1.ffn_quantizer:1": "x2"}}, "mse"),
        ({"finetune": {"ranges": "learned"}}, "learned"),
        ({"finetune": {"ranges": "frozen"}}, None),
        ({}, None),
    ],
)
def test_how_a_range_was_found(tmp_path: Path, facts: dict[str, Any], method: str | None) -> None:
    write_manifest(tmp_path, stage="calibrate", inputs={}, facts=facts)
    assert find_methods(tmp_path)(row()) == method


def test_a_folder_without_a_manifest_does_not_say(tmp_path: Path) -> None:
    assert find_methods(tmp_path)(row()) is None


def test_the_largest_change_comes_first_up_or_down() -> None:
    here = [row(f"encoder.layer.{layer}.ffn_quantizer") for layer in range(5)]
    there = [row(each.name, amax=amax) for each, amax in zip(here, (2.0, 0.5, 3.0, 0.0, 16.0), strict=True)]
    found = compare_ranges(here, there)
    assert [(each.row.layer, each.there, each.ratio) for each in found.changed] == [
        (3, 0.0, None),
        (4, 16.0, 8.0),
        (1, 0.5, 0.25),
        (2, 3.0, 1.5),
    ]
    assert (found.unchanged, found.only_here, found.only_there) == (1, (), ())


def test_depths_only_one_has_are_named_one_by_one() -> None:
    two, three = ([row("layer.0.ffn_quantizer", depth) for depth in range(depths)] for depths in (2, 3))
    found = compare_ranges([*two, row("layer.0.own_quantizer")], three)
    assert found.only_here == ("layer.0.own_quantizer",)
    assert found.only_there == ("layer.0.ffn_quantizer:2",)
    assert found.unchanged == 2


def test_what_is_not_known_is_none() -> None:
    told = describe_range(row(), None)
    assert (told["layer"], told["role"], told["amax"]) == (1, "ffn", 2.0)
    assert {told[name] for name in ("largest", "saturated", "dead", "outlier_dimensions", "estimated")} == {None}
