"""ScaleQueries: the attention scale moves in front of the product and the scores stay what they were."""

import numpy as np
import onnx_ir as ir
import pytest

from export.passes.fold_weights import FoldWeights
from export.passes.qdq_nodes import constant, nodes_of, operand
from export.passes.scale_queries import ScaleQueries
from export.passes.strip_quantization import StripQuantization
from tests.test_export.tiny_models import SHAPES, Traced, count_apart, make_batch, run_graph
from tests.tolerances import FLIPPED_ROWS, SCALED_FP16

HEAD_SIZE = 32
FACTOR = np.float32(HEAD_SIZE**-0.5)
SCALED = {
    "bert": (0, "query_quantizer", "key_quantizer"),
    "albert": (0, "query_quantizer", "key_quantizer"),
    "convbert": (1, "key.output_quantizer", "query.output_quantizer"),
    "squeezebert": (0, "matmul_qk.left_quantizer", "matmul_qk.right_quantizer"),
}
"""Of each family: the operand of the scores that takes the scale, its quantizer, the other's: ConvBERT's query has a
second reader."""


def score_products(model: ir.Model) -> list[ir.Node]:
    """The products whose result a Softmax reads, directly or behind the mask."""
    found = []
    for softmax in nodes_of(model, "Softmax"):
        add = operand(softmax, 0).producer()
        assert add is not None
        sources = [value.producer() for value in add.inputs if value is not None]
        found += [node for node in sources if node is not None and node.op_type == "MatMul"]
    return found


def scales_before(model: ir.Model, operand_index: int) -> list[float]:
    """The scale of the DequantizeLinear that one operand of every score product comes from."""
    scales = []
    for product in score_products(model):
        source = operand(product, operand_index).producer()
        while source is not None and source.op_type in ("Reshape", "Transpose"):
            source = operand(source, 0).producer()
        assert source is not None
        assert source.op_type == "DequantizeLinear"
        array = constant(operand(source, 1))
        assert array is not None
        scales.append(float(array))
    return scales


def stored_scales(traced: Traced, quantizer: str) -> list[float]:
    wanted = [node for node in nodes_of(traced.graph, "QuantizeLinear") if f"{quantizer}/" in (node.name or "")]
    return [float(array) for node in wanted if (array := constant(operand(node, 1))) is not None]


def test_the_logits_stay_and_no_score_is_scaled_afterwards(traced: Traced) -> None:
    scaled = traced.graph.clone()
    FoldWeights()(scaled)
    assert score_products(scaled) == []
    assert ScaleQueries("float32")(scaled).modified
    assert len(score_products(scaled)) == traced.case.layers
    for shape in SHAPES:
        batch = make_batch(*shape)
        assert count_apart(run_graph(scaled, batch), run_graph(traced.graph, batch)) <= FLIPPED_ROWS.value


def test_the_dequantization_of_one_operand_takes_the_scale(traced: Traced) -> None:
    taken, quantizer, other = SCALED[traced.case.family]
    scaled = traced.graph.clone()
    ScaleQueries("float32")(scaled)
    stored = stored_scales(traced, quantizer)
    assert len(stored) == traced.case.layers
    assert scales_before(scaled, taken) == [float(np.float32(scale) * FACTOR) for scale in stored]
    assert scales_before(scaled, 1 - taken) == stored_scales(traced, other)


def test_in_fp16_the_scale_is_an_fp16_value(traced: Traced) -> None:
    taken, quantizer, _ = SCALED[traced.case.family]
    scaled = traced.graph.clone()
    ScaleQueries("float16")(scaled)
    found = scales_before(scaled, taken)
    assert found == [float(np.float16(scale)) for scale in found]
    exact = [scale * float(FACTOR) for scale in stored_scales(traced, quantizer)]
    assert found == pytest.approx(exact, rel=SCALED_FP16.value)


def test_a_float_query_is_multiplied(traced: Traced) -> None:
    plain = traced.graph.clone()
    StripQuantization()(plain)
    scaled = plain.clone()
    assert ScaleQueries("float32")(scaled).modified
    batch = make_batch(3, 9)
    assert count_apart(run_graph(scaled, batch), run_graph(plain, batch)) == 0


def test_scaled_queries_are_left_alone(traced: Traced) -> None:
    scaled = traced.graph.clone()
    ScaleQueries("float32")(scaled)
    assert not ScaleQueries("float32")(scaled).modified
