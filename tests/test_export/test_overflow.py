"""The overflow probe: real rows, every float value by name, and what comes near FP16's end stays in FP32."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from export.engine import BuildSettings, build
from export.exported import Lowering, export, lower_graph, probe_overflow, write_exported
from export.overflow import find_overflows, read_probe_rows
from export.passes.qdq_nodes import constant, nodes_of, operand
from export.settings import ExportSettings
from export.targets import find_target
from qat.artefacts import read_manifest
from qat.errors import ExportError
from tests.test_export.tiny_models import Traced, make_batch
from tests.tiny import tiny_rows, tiny_tokenizer

FP16 = Lowering(find_target("rtx"), "fp16")
BIAS = "model.bert.encoder.layer.0.output.dense.bias"
NORM = "bert.encoder.layer.0.output.LayerNorm/LayerNormalization"


def with_bias(graph: ir.Model, bias: float) -> ir.Model:
    """The graph with a constant added that the LayerNormalization behind it takes away again."""
    shifted = graph.clone()
    value = shifted.graph.initializers[BIAS]
    array = constant(value)
    assert array is not None
    value.const_value = ir.tensor(array.astype(np.float32) + np.float32(bias), name=BIAS)
    return shifted


def test_a_model_whose_values_are_small_keeps_nothing(bert: Traced) -> None:
    assert probe_overflow(bert.graph, FP16, [make_batch(4, 16)]) == ()


def test_what_comes_near_the_end_is_named_and_stays_in_fp32(bert: Traced, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    graph = with_bias(bert.graph, 50_000)
    overflows = probe_overflow(graph, FP16, [make_batch(4, 16)])
    assert [each.node for each in overflows if NORM in each.readers]
    assert all(abs(each.largest - 50_000) < 100 for each in overflows)
    lowering = replace(FP16, overflows=overflows)
    lowered = lower_graph(graph, lowering)
    norms = {node.name: operand(node, 0).dtype for node in nodes_of(lowered, "LayerNormalization")}
    assert [name for name, dtype in norms.items() if dtype == ir.DataType.FLOAT] == [NORM]
    made = write_exported(graph, bert.model, tmp_path / "onnx", lowering=lowering, tokenizer=None)
    kept = read_manifest(made.folder)["overflow"]
    assert kept == json.loads(
        json.dumps([{"node": each.node, "largest": each.largest, "readers": list(each.readers)} for each in overflows])
    )
    engine = build(made.folder, tmp_path / "model.engine", settings=BuildSettings(shapes="4x16", hardware=("sm_89",)))
    assert (engine.audit.status, engine.audit.float_gemms) == ("complete", 0)


def test_the_margin_is_how_much_larger_other_rows_may_get(bert: Traced) -> None:
    graph = with_bias(bert.graph, 30_000)
    near = [
        bool(probe_overflow(graph, replace(FP16, settings=ExportSettings(margin=margin)), [make_batch(4, 16)]))
        for margin in (1.0, 2.0, 3.0, 4.0)
    ]
    assert near == [False, False, True, True]


def test_a_value_that_is_no_number_counts_as_overflow() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    agraph (float[n] x) => (float[n] y) { [root] y = Sqrt(x) }"""
    (found,) = find_overflows(ir.from_onnx_text(text), [{"x": np.array([-1], np.float32)}], margin=1)
    assert (found.node, found.readers) == ("root", ())


def test_rows_are_read_as_the_task_reads_them(bert: Traced, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps({"text": row["text"], "label": "LABEL_0"}) for row in tiny_rows(12)))
    feeds = read_probe_rows(bert.model, tiny_tokenizer(), data, limit=10)
    assert [feed["input_ids"].shape[0] for feed in feeds] == [8, 2]
    assert list(feeds[0]) == ["input_ids", "attention_mask"]
    made = export(
        bert.model, tmp_path / "onnx", tokenizer=tiny_tokenizer(), settings=ExportSettings(data=data, rows=10)
    )
    assert made.overflows == ()
    assert read_manifest(made.folder)["overflow"] == []


def test_rows_without_a_tokenizer_are_refused(bert: Traced, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export(bert.model, tmp_path / "onnx", settings=ExportSettings(data=tmp_path / "rows.jsonl"))
    assert str(caught.value) == ("rows to probe for overflow were given without a tokenizer to encode them: give both")
