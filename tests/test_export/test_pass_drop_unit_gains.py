"""DropUnitGains: multiplications by one go, all others stay, and no number changes."""

import numpy as np
import onnx_ir as ir
import torch

from export.exported import trace_model
from export.passes.drop_unit_gains import DropUnitGains
from qat.families import find_family
from qat.residual_stream import rescale_stream
from tests.calibrated import make_calibrated
from tests.test_export.tiny_models import Traced, make_batch, run_graph
from tests.tiny import tiny_bert


def gains_of(graph: ir.Model) -> list[str]:
    return [str(node.name) for node in graph.graph if node.op_type == "Mul" and "LayerNorm" in str(node.name)]


def test_units_nobody_changed_cost_nothing(bert: Traced) -> None:
    graph = bert.graph.clone()
    assert len(gains_of(graph)) == 4
    assert DropUnitGains()(graph).modified
    assert gains_of(graph) == []
    assert not DropUnitGains()(graph).modified
    batch = make_batch(2, 9)
    assert (run_graph(graph, batch) == run_graph(bert.graph, batch)).all()


def test_a_gain_stays() -> None:
    model = make_calibrated(tiny_bert())
    tensor = find_family("bert").stream_tensors(model)[1]
    rescale_stream(model, tensor, torch.exp2(torch.arange(32) % 3 - 1.0))
    graph = trace_model(model)
    DropUnitGains()(graph)
    assert gains_of(graph) == ["bert.encoder.layer.0.output.LayerNorm/Mul"]


def test_a_factor_that_widens_stays() -> None:
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=("batch", 1))
    ones = ir.tensor(np.ones(4, np.float32), name="ones")
    factor = ir.Value(name="ones", shape=ir.Shape((4,)), type=ir.TensorType(ir.DataType.FLOAT), const_value=ones)
    mul = ir.node("Mul", [x, factor])
    graph = ir.Graph([x], mul.outputs, nodes=[mul], initializers=[factor], opset_imports={"": 20})
    assert not DropUnitGains()(ir.Model(graph, ir_version=10)).modified
