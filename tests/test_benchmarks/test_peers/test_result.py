"""The result of a contest: raw rows kept, ours compared with matched rows alone, a table of 80 columns, whole files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers.contest import Contest, Outcome, run_contest
from benchmarks.peers.cost_table import draw_costs
from benchmarks.peers.costs import Costs
from benchmarks.peers.result import Beside, compare_matched, describe_contest, read_result, write_result
from benchmarks.peers.roster import OURS
from benchmarks.peers.row import FLOAT, Peer, Placement, Row, Standing
from benchmarks.peers.score import pack_rows
from benchmarks.peers.table import draw_table
from benchmarks.peers.text import WIDTH
from benchmarks.peers.training import Training
from benchmarks.peers.written import Written
from calibration.settings import CalibrationSettings
from qat.errors import DataError

DEFAULT = CalibrationSettings().method
FACTS: dict[str, Any] = {
    "inference": {"wall_s": 2.0, "cpu_s": 2.0},
    "quantization": {"wall_s": 30.0, "cpu_s": 5.0},
    "peak_mb": 900,
    "inside": {"weights": 36, "activations": 48, "products": 48, "file_bytes": 10, "counted": "modules"},
    "versions": {"python": "3.11", "torch": "2.13.0"},
}
LATENCY = {"1x32": {"float": [4.0, 6.0], "quantized": [2.0, 2.0]}, "8x128": {"float": [9.0], "quantized": [9.0]}}
PLAN = {
    "rest": "fp16", "int8_gemms": 24, "float_gemms": 1, "unplanned_gemms": 3, "int8_attentions": 6,
    "float_attentions": 0, "split_attentions": 0, "kernels": 61, "activation_mb": 123.45,
}  # fmt: skip
BESIDE = Beside(
    training=Training(samples_ms={"float": [2.0, 4.0], "full": [3.0, 6.0]}),
    written=(Written(peer="qdq", file="qdq.sh", lines=2, wall_s=31.0, error=""),),
)
FLOAT_FACTS = {**FACTS, "quantization": None, "inside": None}


def _outcome(
    peer: str, recipe: str, right: int, standing: Standing = "matched", placement: Placement = "linear"
) -> Outcome:
    correct = np.arange(100) < right
    row = Row(recipe=recipe, standing=standing, placement=placement)
    facts = FLOAT_FACTS if recipe == FLOAT else FACTS
    costs = Costs(latency=LATENCY, plan=PLAN) if recipe == "default" else None
    return Outcome(peer=peer, row=row, accuracy=right / 100, correct=pack_rows(correct), facts=facts, costs=costs)


@pytest.fixture
def outcomes() -> list[Outcome]:
    refused = Row(recipe="full", standing="matched", placement="tensorrt", cannot=" ".join(["cannot"] * 40))
    return [
        _outcome("qdq", FLOAT, 90, "float", "float"),
        _outcome("qdq", f"linear {DEFAULT}", 88),
        _outcome("qdq", "linear another", 89),
        _outcome("other", "default", 60, "as shipped", "own"),
        _outcome("other", "matched and with a very long name indeed", 70),
        Outcome(peer="other", row=refused, error=refused.cannot),
    ]


@pytest.fixture
def result(contest: Contest, outcomes: list[Outcome]) -> dict[str, Any]:
    return describe_contest(contest, outcomes, BESIDE)


def test_only_matched_rows_are_compared_and_with_our_default_method(outcomes: list[Outcome]) -> None:
    (found,) = compare_matched(outcomes)

    assert (found["ours"], found["peer"]) == (f"linear {DEFAULT}", "other")
    assert (found["theirs"], found["points"], found["clear"]) == (
        "matched and with a very long name indeed",
        18.0,
        True,
    )


def test_another_placement_or_granularity_is_not_compared(outcomes: list[Outcome]) -> None:
    assert compare_matched([outcomes[1], _outcome("other", "full", 70, placement="tensorrt")]) == []


def test_a_row_in_which_nothing_is_int8_is_not_compared(outcomes: list[Outcome]) -> None:
    matched = outcomes[4]
    nothing = {**FACTS["inside"], "weights": 0, "activations": 0, "products": 0}

    assert len(compare_matched([outcomes[1], matched])) == 1
    assert compare_matched([outcomes[1], replace(matched, facts={**FACTS, "inside": nothing})]) == []


def test_rows_stand_in_the_order_of_the_roster(contest: Contest) -> None:
    late, early = (_outcome("qdq", row.recipe, 80) for row in (OURS.rows[2], OURS.rows[1]))
    other = _outcome("nncf", "default", 80, "as shipped", "own")

    found = describe_contest(contest, [other, late, early])["rows"]

    assert [row["recipe"] for row in found] == [OURS.rows[1].recipe, OURS.rows[2].recipe, "default"]


def test_every_row_keeps_its_raw_answers_and_its_distance_to_float(result: dict[str, Any]) -> None:
    rows = {row["recipe"]: row for row in result["rows"]}

    assert rows["default"]["correct"].count("1") == 60
    assert rows["default"]["to_float"]["points"] == -30.0
    assert rows[FLOAT]["to_float"] == {"points": 0.0, "error": 0.0}
    assert rows["full"]["to_float"] is None
    assert rows["full"]["error"].startswith("cannot cannot")


def test_the_contest_is_named_without_the_machines_paths(result: dict[str, Any], contest: Contest) -> None:
    assert result["contest"]["checkpoint"] == contest.checkpoint.name
    assert str(contest.checkpoint.parent) not in json.dumps(result)
    assert result["contest"]["data"]["hash"].startswith("sha256:")


def test_no_line_of_the_table_is_wider_than_80_columns(result: dict[str, Any]) -> None:
    lines = [*draw_table(result).splitlines(), *draw_costs(result).splitlines()]

    assert max(map(len, lines)) <= WIDTH


def test_the_table_shows_figures_failures_and_the_verdict(result: dict[str, Any]) -> None:
    table = draw_table(result)
    line = next(line for line in table.splitlines() if line.startswith(" default"))

    assert line.split() == ["default", "as", "shipped", "60.00", "-30.00", "±4.61", "5.0", "2.5", "36/48/48"]
    assert "cannot cannot" in table
    assert table.splitlines()[-1].split()[-3:] == ["+18.00", "±3.86", "ahead"]


def test_the_tables_of_costs_show_speed_plan_training_and_lines(result: dict[str, Any]) -> None:
    lines = [line.split() for line in draw_costs(result).splitlines()]

    assert ["other:", "default", "0.0", "2.50", "±0.25", "1.00", "±0.00"] in lines
    assert ["other:", "default", "0.0", "fp16", "24/1/3", "6/0/0", "61", "123.5"] in lines
    assert ["full", "1.50", "±0.00", "4"] in lines
    assert ["qdq:", "qdq.sh", "2", "31"] in lines


def test_what_could_not_be_measured_stands_there_with_its_error(contest: Contest, outcomes: list[Outcome]) -> None:
    failed = Costs(errors={"latency": "no compiler", "plan": "the engine was refused"})
    broken = Beside(
        training=Training(samples_ms={}, error="its step failed"),
        written=(Written(peer="other", file="other.py", lines=20, wall_s=None, error="no such package"),),
    )

    drawn = draw_costs(describe_contest(contest, [replace(outcomes[3], costs=failed)], broken))

    for error in ("no compiler", "the engine was refused", "its step failed", "no such package"):
        assert f"    {error}" in drawn.splitlines()


def test_a_result_without_costs_has_no_tables_of_them(contest: Contest, outcomes: list[Outcome]) -> None:
    assert draw_costs(describe_contest(contest, outcomes[:2])) == ""


def test_what_failed_is_not_taken_from_a_result(contest: Contest, outcomes: list[Outcome], tmp_path: Path) -> None:
    broken = Beside(
        training=Training(samples_ms={"float": [1.0]}, error="its step failed"),
        written=(Written(peer="other", file="other.py", lines=20, wall_s=None, error="no such package"),),
    )
    written, _ = write_result(tmp_path / "peers.json", describe_contest(contest, outcomes, broken))

    assert read_result(written, contest, _roster(outcomes))[1] == Beside()


def test_the_files_hold_the_result_and_the_table(result: dict[str, Any], tmp_path: Path) -> None:
    written, table = write_result(tmp_path / "new" / "peers.json", result)

    assert json.loads(written.read_text(encoding="utf-8")) == result
    assert table.name == "peers.md"
    assert table.read_text(encoding="utf-8") == (
        f"```text\n{draw_table(result)}\n```\n\n```text\n{draw_costs(result)}\n```\n"
    )
    assert sorted(path.name for path in written.parent.iterdir()) == ["peers.json", "peers.md"]


def _roster(outcomes: list[Outcome]) -> list[Peer]:
    names = dict.fromkeys(outcome.peer for outcome in outcomes)
    return [
        replace(OURS, name=name, rows=tuple(outcome.row for outcome in outcomes if outcome.peer == name))
        for name in names
    ]


def test_a_result_gives_its_finished_rows_back(
    contest: Contest, outcomes: list[Outcome], result: dict[str, Any], tmp_path: Path
) -> None:
    written, _ = write_result(tmp_path / "peers.json", result)

    known, beside = read_result(written, contest, _roster(outcomes))

    assert known == [outcome for outcome in outcomes if not outcome.error]
    assert beside == BESIDE
    assert list(run_contest(contest, _roster(outcomes), known=known)) == outcomes


def test_a_file_that_is_not_there_has_no_rows(contest: Contest, tmp_path: Path) -> None:
    assert read_result(tmp_path / "none.json", contest, []) == ([], Beside())


def test_a_contest_of_other_sizes_is_not_resumed(contest: Contest, result: dict[str, Any], tmp_path: Path) -> None:
    written, _ = write_result(tmp_path / "peers.json", result)

    with pytest.raises(DataError, match="holds a contest on other data or sizes: leave --resume out"):
        read_result(written, replace(contest, texts=17), [])


def test_a_file_of_something_else_is_not_resumed(contest: Contest, tmp_path: Path) -> None:
    (tmp_path / "peers.json").write_text("{}", encoding="utf-8")

    with pytest.raises(DataError, match=r"is no result of a contest \(KeyError\('contest'\)\): leave --resume out"):
        read_result(tmp_path / "peers.json", contest, [])
