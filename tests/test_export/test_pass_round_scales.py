"""RoundScales: BF16 values that FP16 holds too, at most 2**-8 away, with the weights quantized by the rounded ones."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from export.passes.fold_weights import FoldWeights, quantize_weight
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, constant, nodes_of, operand, quantizes_constant
from export.passes.round_scales import RoundScales
from tests.test_export.tiny_models import Traced


def test_scales_move_by_at_most_two_to_the_minus_eight(traced: Traced) -> None:
    graph = traced.graph.clone()
    before = {node.name: constant(operand(node, 1)) for node in nodes_of(graph, QUANTIZE, DEQUANTIZE)}
    assert RoundScales()(graph).modified
    for node in nodes_of(graph, QUANTIZE, DEQUANTIZE):
        scale, exact = constant(operand(node, 1)), before[node.name]
        assert scale is not None
        assert exact is not None
        assert np.array_equal(scale, scale.astype(ml_dtypes.bfloat16).astype(np.float32))
        assert np.array_equal(scale, scale.astype(np.float16).astype(np.float32))
        moved = np.abs(scale.astype(np.float64) - exact.astype(np.float64))
        assert (moved <= exact.astype(np.float64) * 2.0**-8).all()
    assert not RoundScales()(graph).modified


def test_weights_are_quantized_with_the_rounded_scale(bert: Traced) -> None:
    graph = bert.graph.clone()
    RoundScales()(graph)
    expected = {}
    for node in nodes_of(graph, QUANTIZE):
        weight, scale = constant(operand(node, 0)), constant(operand(node, 1))
        if quantizes_constant(node) and weight is not None and scale is not None:
            expected[f"{operand(node, 0).name}_int8"] = quantize_weight(
                weight, scale, node.attributes.get_int("axis", 1)
            )
    FoldWeights()(graph)
    assert len(expected) == 6 * bert.case.layers
    for name, levels in expected.items():
        stored = constant(graph.graph.initializers[name])
        assert stored is not None
        assert np.array_equal(stored, levels.T)


def test_folded_weights_are_refused(bert: Traced) -> None:
    graph = bert.graph.clone()
    FoldWeights()(graph)
    with pytest.raises(ir.passes.PreconditionError, match=r"holds folded weights: round scales first$"):
        RoundScales()(graph)
