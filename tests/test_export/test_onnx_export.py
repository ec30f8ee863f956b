"""The traced graph, before any lowering: names, axes, shapes it was never traced at, and what it leaves untouched."""

import logging

import numpy as np
import onnx_ir as ir
import pytest
import torch

from export.onnx_export import OPSET, trace_graph
from export.passes.name_graph import module_path
from qat.quantizer import disable_quantizers, named_quantizers
from tests.test_export.conftest import Trace
from tests.test_export.tiny_models import (
    PAIR,
    SHAPES,
    Case,
    Traced,
    count_apart,
    make_batch,
    make_calibrated,
    run_float,
    run_graph,
    run_torch,
)
from tests.tolerances import FLIPPED_ROWS

LINEAR = Case("bert", "linear", "per_channel", shallow=True, pair=True)


def test_the_traced_graph_is_the_model_at_every_shape(traced: Traced) -> None:
    batches = [make_batch(*shape, seed=3) for shape in SHAPES]
    apart = sum(count_apart(run_graph(traced.graph, each), run_torch(traced.model, each)) for each in batches)
    assert apart <= FLIPPED_ROWS.value


def test_segment_ids_are_an_input_where_the_task_has_them(trace: Trace) -> None:
    pair = trace(LINEAR)
    assert [value.name for value in pair.graph.graph.inputs] == list(PAIR)
    first, second = (make_batch(4, 20, inputs=PAIR) for _ in range(2))
    second["token_type_ids"] = np.zeros_like(second["token_type_ids"])
    assert count_apart(run_graph(pair.graph, first), run_torch(pair.model, first)) <= FLIPPED_ROWS.value
    assert count_apart(run_graph(pair.graph, first), run_graph(pair.graph, second)) > FLIPPED_ROWS.value


def test_inputs_outputs_and_free_axes_are_named(traced: Traced) -> None:
    graph = traced.graph.graph
    assert [(v.name, v.dtype, str(v.shape)) for v in graph.inputs] == [
        ("input_ids", ir.DataType.INT64, "[batch,sequence]"),
        ("attention_mask", ir.DataType.INT64, "[batch,sequence]"),
    ]
    assert [(v.name, v.dtype, str(v.shape)) for v in graph.outputs] == [("logits", ir.DataType.FLOAT, "[batch,3]")]
    assert traced.graph.opset_imports == {"": OPSET}
    assert traced.graph.producer_name == "qdq"
    free = {
        dim.value
        for node in graph
        for value in node.outputs
        for dim in value.shape or ()
        if isinstance(dim, ir.SymbolicDim)
    }
    assert {"batch", "sequence"} <= free
    assert not any(name is not None and name.startswith("s") and name[1:].isdigit() for name in free)


def test_every_quantizer_of_the_model_is_a_named_node_of_the_graph(traced: Traced) -> None:
    names = {node.name for node in traced.graph.graph}
    expected = {
        f"{name}/QuantizeLinear" + (f"_{depth}" if depth else "")
        for name, quantizer in named_quantizers(traced.model)
        for depth in range(1 if quantizer.spec.range_source == "weight" else len(quantizer.amax))
    }
    assert len(expected) > 16
    assert expected <= names


def test_nodes_are_called_after_the_module_they_come_from(bert: Traced) -> None:
    modules = {name for name, _ in bert.model.named_modules()}
    named = [node for node in bert.graph.graph if module_path(node) != "graph"]
    assert len(named) > 100
    assert {module_path(node) for node in named} <= modules
    assert all((node.name or "").startswith(f"{module_path(node)}/{node.op_type}") for node in named)


def test_tracing_leaves_model_and_log_as_they_were_and_gives_the_same_bytes_again(
    trace: Trace, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make_calibrated(LINEAR).train()
    exporter = logging.getLogger("torch.onnx._internal.exporter._registration")
    level, before = exporter.level, {name: value.clone() for name, value in model.state_dict().items()}
    capfd.readouterr()
    again = trace_graph(model, inputs=PAIR, outputs=("logits",))
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert exporter.level == level
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    first = ir.to_proto(trace(LINEAR).graph).SerializeToString()
    assert ir.to_proto(again).SerializeToString() == first


def test_with_quantizers_off_the_graph_is_the_float_model() -> None:
    model = make_calibrated(LINEAR)
    with disable_quantizers(model):
        graph = trace_graph(model, inputs=PAIR, outputs=("logits",))
    batch = make_batch(3, 9, inputs=PAIR)
    assert {node.op_type for node in graph.graph}.isdisjoint({"QuantizeLinear", "DequantizeLinear"})
    assert count_apart(run_graph(graph, batch), run_float(model, batch)) == 0
