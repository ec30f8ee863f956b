"""The table of methods: every method and control there, scored beside the float model on the same rows."""

import json
from pathlib import Path

import pytest

from benchmarks.methods import PLACEMENTS, MethodRow, draw_rows, methods_command
from benchmarks.sample import CHECKPOINT, TRAIN, VALIDATION
from qat.errors import RecipeError

METHODS = ["entropy", "max", "mse", "percentile", "best"]


def test_every_method_and_control_is_scored_on_the_same_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, scored = tmp_path / "methods.json", tmp_path / "scored.jsonl"
    scored.write_text("".join(VALIDATION.read_text(encoding="utf-8").splitlines(keepends=True)[:40]), encoding="utf-8")
    methods_command(CHECKPOINT, TRAIN, scored, out, texts=32, only=["tensorrt/tensor"])
    rows = json.loads(out.read_text())["rows"]
    assert (rows[0]["placement"], rows[0]["points"], rows[0]["agreement"]) == ("float", 0.0, 100.0)
    named = [row["method"] for row in rows[1:]]
    assert [name for name in named if "," not in name] == METHODS
    assert [name for name in named if "merged" in name] == ["max, depths merged", "best, depths merged"]
    for row in rows:
        right = row["correct"].count("1")
        assert len(row["correct"]) == 40
        assert row["accuracy"] == pytest.approx(100 * right / 40)
        assert row["recovered"] == pytest.approx(100 * right / rows[0]["correct"].count("1"))
        assert row["points"] == pytest.approx(row["accuracy"] - rows[0]["accuracy"])
    printed = capsys.readouterr().out
    assert json.loads(printed.strip().splitlines()[-1])["out"] == str(out)


def test_lines_fit_eighty_columns() -> None:
    row = MethodRow(
        placement=max(PLACEMENTS, key=len), method="best, not equalized", accuracy=100.0, recovered=100.0, points=-10.0,
        error=0.25, agreement=100.0, correct="1",
    )  # fmt: skip
    assert max(map(len, draw_rows([row]).splitlines())) <= 80


def test_a_name_that_is_neither_a_placement_nor_a_method_is_refused(tmp_path: Path) -> None:
    told = r"^'tensorrt' is neither a placement nor a method: did you mean 'tensorrt/tensor'\?"
    with pytest.raises(RecipeError, match=told):
        methods_command(CHECKPOINT, TRAIN, VALIDATION, tmp_path / "x.json", only=["tensorrt"])


def test_only_what_is_asked_for_is_scored(tmp_path: Path) -> None:
    out, scored = tmp_path / "methods.json", tmp_path / "scored.jsonl"
    scored.write_text("".join(VALIDATION.read_text(encoding="utf-8").splitlines(keepends=True)[:8]), encoding="utf-8")
    methods_command(CHECKPOINT, TRAIN, scored, out, texts=8, only=["linear/channel", "max"])
    assert [row["method"] for row in json.loads(out.read_text())["rows"]] == ["-", "max", "max, depths merged"]
