"""The table of plans: every placement in both granularities, beside FP16 and FP32."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.plans import PlanRow, draw_rows, plans_command
from export.audit.engine_audit import LEAST_LAYER_BYTES
from qat.errors import RecipeError
from tests.test_export.tiny_models import make_float
from tests.tiny import save_tiny, tiny_tokenizer

pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")

ROW = PlanRow(
    checkpoint="mini", placement="float", weights="-", rest="fp32", int8_gemms=0, float_gemms=0, int8_attentions=0,
    kernels=12, kernels_fixed=11, activation_mb=10.0, share=1.25, layer_bytes=40.0, to_least=18.0,
)  # fmt: skip


@pytest.mark.long
def test_a_checkpoint_gets_a_row_for_each_precision_granularity_and_recipe(tmp_path: Path) -> None:
    folder = save_tiny(make_float("bert", 1), tiny_tokenizer(), tmp_path / "mini")
    plans_command([folder], tmp_path / "plans.json", shape="2x16", only=["tensorrt"])
    stored = json.loads((tmp_path / "plans.json").read_text(encoding="utf-8"))
    rows = [PlanRow(**row) for row in stored["rows"]]
    assert [(row.checkpoint, row.placement, row.weights, row.rest) for row in rows] == [
        ("mini", "float", "-", "fp16"),
        ("mini", "float", "-", "fp32"),
        ("mini", "tensorrt", "per_tensor", "fp16"),
        ("mini", "tensorrt", "per_channel", "fp16"),
    ]
    assert [(row.int8_gemms, row.float_gemms, row.int8_attentions) for row in rows] == [(0, 0, 0)] * 2 + [(4, 0, 1)] * 2
    half = rows[0].activation_mb
    for row in rows:
        assert row.kernels_fixed < row.kernels
        assert row.activation_mb is not None
        assert half is not None
        assert row.share == row.activation_mb / half
        assert row.layer_bytes == row.activation_mb * 1e6 / (2 * 16 * 64)
        assert row.to_least == row.layer_bytes - LEAST_LAYER_BYTES
    assert (stored["fixed"], stored["dynamic"]) == ([2, 16], "1x1,8x64,32x128")
    assert stored["environment"]["cpu"]


def test_unknown_figures_are_dashes_and_lines_align() -> None:
    head, rule, known, unknown = draw_rows([ROW, replace(ROW, activation_mb=None, share=None)]).splitlines()
    assert len({len(head), len(rule), len(known), len(unknown)}) == 1
    assert known.split() == ["mini", "float", "-", "fp32", "0", "0", "0", "12", "11", "10.0", "1.250", "40.0", "18.0"]
    assert unknown.split()[-4:] == ["-", "-", "40.0", "18.0"]


def test_wrong_shapes_and_recipes_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^--shape: shape: Value error, expected BATCHxSEQUENCE"):
        plans_command([tmp_path], tmp_path / "plans.json", shape="8")
    with pytest.raises(RecipeError, match=r"^recipe 'leen' is neither shipped nor a file: did you mean 'lean'\?"):
        plans_command([tmp_path], tmp_path / "plans.json", only=["leen"])
