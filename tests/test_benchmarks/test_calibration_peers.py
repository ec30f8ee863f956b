"""Calibration beside other tools: seconds side by side, a failed row told, a missing environment named."""

import pytest

from benchmarks.calibration_peers import require_environments, tabulate_methods
from benchmarks.peers.contest import Outcome
from benchmarks.peers.row import Row
from qat.errors import BuildError

METHODS = ("entropy", "max", "mse", "percentile")


def outcome(peer: str, recipe: str, *, spent: float = 0.0, bare: float = 1.0, error: str = "") -> Outcome:
    row = Row(recipe=recipe, standing="matched", placement="linear")
    facts = {} if error else {"quantization": {"cpu_s": spent}, "inference": {"cpu_s": bare}}
    return Outcome(peer=peer, row=row, facts=facts, error=error)


def test_every_method_of_both_tools_is_on_one_line() -> None:
    ours = [outcome("qdq", f"linear/channel {name}", spent=2.0, bare=1.0) for name in METHODS]
    theirs = [outcome("modelopt", f"linear {name}", spent=30.0, bare=1.5) for name in METHODS]
    found = tabulate_methods([*ours, *theirs], "modelopt")
    assert sorted(each.method for each in found) == sorted(METHODS)
    for each in found:
        assert (each.ours, each.theirs, each.times, each.error) == (2.0, 30.0, 15.0, "")
        assert (each.ours_passes, each.theirs_passes) == (2.0, 20.0)


def test_a_row_that_failed_has_its_error_and_no_figure() -> None:
    ours = [outcome("qdq", f"linear/channel {name}", spent=2.0) for name in METHODS]
    theirs = [outcome("modelopt", f"linear {name}", error="out of memory") for name in METHODS]
    for each in tabulate_methods([*ours, *theirs], "modelopt"):
        assert (each.ours, each.theirs, each.times, each.error) == (2.0, None, None, "out of memory")


def test_a_missing_environment_is_named_with_both_ways_out() -> None:
    said = "the environment of NNCF is missing (runs/peers/nncf): run python -m benchmarks.peers prepare"
    with pytest.raises(BuildError) as caught:
        require_environments([outcome("qdq", "best", spent=1.0), outcome("nncf", "linear", error=said)])
    assert str(caught.value) == f"{said}, or leave the peers out with --no-peers"
