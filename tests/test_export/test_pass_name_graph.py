"""NameGraph: axes and nodes get names people can read, and nothing else changes."""

import onnx_ir as ir
import pytest

from export.passes.name_graph import NameGraph, module_path
from tests.test_export.tiny_models import Traced, make_batch, run_graph

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[s0, s1] x, float[s1, 4] w) => (float[s0, 4] y) {
    a = Relu(x)
    b = Relu(a)
    y = MatMul(b, w)
}
"""


def make_graph() -> ir.Model:
    """Two Relu of one module and a MatMul that the exporter placed nowhere."""
    model = ir.from_onnx_text(TEXT)
    for node in list(model.graph)[:2]:
        node.metadata_props["namespace"] = (
            ": wrapper.Wrapper/model: a.Bert/model.encoder.layer.1: b.Layer/relu: aten.relu"
        )
    return model


def test_nodes_and_axes_are_renamed_and_values_stay() -> None:
    model = make_graph()
    result = NameGraph({"x": ("batch", "sequence")})(model)
    assert result.modified
    assert [node.name for node in model.graph] == ["encoder.layer.1/Relu", "encoder.layer.1/Relu_1", "graph/MatMul"]
    assert [str(value.shape) for value in model.graph.inputs] == ["[batch,sequence]", "[sequence,4]"]
    assert [str(value.shape) for value in model.graph.outputs] == ["[batch,4]"]
    assert [node.outputs[0].name for node in model.graph] == ["a", "b", "y"]


def test_axes_are_renamed_within_products_of_them() -> None:
    model = make_graph()
    model.graph.outputs[0].shape = ir.Shape(["4*s0", 4])
    NameGraph({"x": ("batch", "sequence")})(model)
    assert str(model.graph.outputs[0].shape) == "[4*batch,4]"


def test_a_graph_that_has_its_names_is_not_modified(traced: Traced) -> None:
    copy = traced.graph.clone()
    assert not NameGraph(dict.fromkeys(("input_ids", "attention_mask"), ("batch", "sequence")))(copy).modified


def test_the_numbers_stay(bert: Traced) -> None:
    copy, batch = bert.graph.clone(), make_batch(2, 5)
    NameGraph(dict.fromkeys(("input_ids", "attention_mask"), ("rows", "tokens")))(copy)
    assert [str(value.shape) for value in copy.graph.inputs] == ["[rows,tokens]"] * 2
    assert (run_graph(copy, batch) == run_graph(bert.graph, batch)).all()


def test_a_node_outside_the_model_belongs_to_the_graph() -> None:
    nodes = list(make_graph().graph)
    assert [module_path(node) for node in nodes] == ["encoder.layer.1", "encoder.layer.1", "graph"]


def test_two_nodes_of_one_name_break_the_promise() -> None:
    model = make_graph()
    for node in model.graph:
        node.name = "same"
    with pytest.raises(ir.passes.PostconditionError, match=r"^node names repeat: \['same'\]$"):
        NameGraph({}).ensures(model)
