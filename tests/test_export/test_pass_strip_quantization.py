"""StripQuantization: the float twin of a traced graph is the float model."""

import onnx_ir as ir
import pytest

from export.passes.fold_weights import FoldWeights
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, nodes_of
from export.passes.strip_quantization import StripQuantization
from tests.test_export.tiny_models import SHAPES, Traced, count_apart, make_batch, run_float, run_graph, run_torch


def test_the_twin_is_the_float_model_and_not_the_quantized_one(traced: Traced) -> None:
    twin = traced.graph.clone()
    assert StripQuantization()(twin).modified
    for shape in SHAPES:
        batch = make_batch(*shape)
        assert count_apart(run_graph(twin, batch), run_float(traced.model, batch)) == 0
        assert count_apart(run_graph(twin, batch), run_torch(traced.model, batch)) == shape[0]


def test_nothing_of_the_quantizers_is_left(traced: Traced) -> None:
    twin = traced.graph.clone()
    StripQuantization()(twin)
    assert list(nodes_of(twin, QUANTIZE, DEQUANTIZE)) == []
    read = {value for node in twin.graph for value in node.inputs}
    assert [name for name, value in twin.graph.initializers.items() if value not in read] == []
    assert not any(value.dtype == ir.DataType.INT8 for value in twin.graph.initializers.values())
    assert not StripQuantization()(twin).modified


def test_folded_weights_are_refused(bert: Traced) -> None:
    folded = bert.graph.clone()
    FoldWeights()(folded)
    with pytest.raises(ir.passes.PreconditionError) as caught:
        StripQuantization()(folded)
    assert str(caught.value) == (
        "'bert.encoder.layer.0.attention.self.query.weight_quantizer/DequantizeLinear' holds folded weights: "
        "strip before FoldWeights"
    )


def test_a_quantizer_that_stays_breaks_the_promise(bert: Traced) -> None:
    with pytest.raises(ir.passes.PostconditionError, match=r"^quantization nodes are left$"):
        StripQuantization().ensures(bert.graph)


def test_the_quantizers_named_go_and_the_others_stay(bert: Traced) -> None:
    def quantizers(graph: ir.Model) -> set[str]:
        return {(node.name or "").rpartition("/")[0] for node in nodes_of(graph, QUANTIZE, DEQUANTIZE)}

    gone = frozenset(f"bert.encoder.layer.0.intermediate.dense.{slot}_quantizer" for slot in ("weight", "product"))
    part = bert.graph.clone()
    assert StripQuantization(gone)(part).modified
    assert quantizers(part) == quantizers(bert.graph) - gone
    assert not StripQuantization(gone)(part).modified
