"""BoundMask: the mask of every attention becomes a small bounded one and no probability changes."""

import numpy as np
import onnx_ir as ir
import pytest

from export.passes.bound_mask import MASKED_SCORE, BoundMask
from export.passes.qdq_nodes import constant, nodes_of
from qat.families import in_encoder_layer
from tests.test_export.tiny_models import SHAPES, Traced, make_batch, run_graph

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[n, 1, t, t] scores, int64[n, t] attention_mask) => (float[n, 1, t, t] y)
<float lowest = {-3.4e38}, float one = {1.0}, int64[2] axes = {1, 2}> {
    real = Cast <to: int = 1> (attention_mask)
    padded = Sub(one, real)
    flat = Mul(padded, lowest)
    mask = Unsqueeze(flat, axes)
    masked = Add(scores, mask)
    y = Softmax <axis: int = -1> (masked)
}
"""


def constants(model: ir.Model) -> list[float]:
    arrays = [constant(value) for value in model.graph.initializers.values()]
    return [float(value) for a in arrays if a is not None and a.dtype.kind == "f" for value in a.reshape(-1)]


def test_the_logits_are_those_of_the_unbounded_mask(traced: Traced) -> None:
    bounded = traced.graph.clone()
    assert BoundMask()(bounded).modified
    for shape in SHAPES:
        batch = make_batch(*shape)
        assert np.array_equal(run_graph(bounded, batch), run_graph(traced.graph, batch))


def test_one_bounded_mask_serves_every_layer_and_its_machinery_goes(traced: Traced) -> None:
    bounded = traced.graph.clone()
    BoundMask()(bounded)
    assert min(constants(traced.graph)) < -3e38
    assert min(constants(bounded)) == MASKED_SCORE == -10000.0
    (mask,) = (node for node in nodes_of(bounded, "Unsqueeze") if not in_encoder_layer(node.name or ""))
    assert {use.node.op_type for use in mask.outputs[0].uses()} == {"Add"}
    assert len(mask.outputs[0].uses()) == traced.case.layers
    assert str(mask.outputs[0].shape) == "[batch,1,1,sequence]"
    assert len(bounded.graph) < len(traced.graph.graph) - 5
    assert "GatherND" not in {node.op_type for node in bounded.graph}


def test_probabilities_of_padding_are_exactly_zero() -> None:
    model = ir.from_onnx_text(TEXT)
    assert BoundMask()(model).modified
    feed = {"scores": np.full((1, 1, 3, 3), 50.0, np.float32), "attention_mask": np.array([[1, 1, 0]])}
    assert run_graph(model, feed).tolist() == [[[[0.5, 0.5, 0.0]] * 3]]


def test_the_choices_of_a_row_follow_one_another() -> None:
    text = TEXT.replace("int64[n, t] attention_mask", "int64[b, 2, t] attention_mask").replace(
        "real = Cast <to: int = 1> (attention_mask)",
        "rows = Reshape(attention_mask, flat_shape) real = Cast <to: int = 1> (rows)",
    )
    model = ir.from_onnx_text(
        text.replace("int64[2] axes = {1, 2}", "int64[2] axes = {1, 2}, int64[2] flat_shape = {-1, 3}")
    )
    mask = np.array([[[1, 1, 1], [1, 1, 0]], [[1, 0, 0], [1, 1, 0]]])
    feed = {"scores": np.arange(36, dtype=np.float32).reshape(4, 1, 3, 3), "attention_mask": mask}
    expected = run_graph(model, feed)
    assert BoundMask()(model).modified
    assert not BoundMask()(model).modified
    assert np.array_equal(run_graph(model, feed), expected)
    assert (expected[:, 0] > 0).tolist() == [[row.tolist()] * 3 for row in mask.reshape(4, 3).astype(bool)]


def test_a_bounded_mask_and_attention_without_one_are_left_alone(traced: Traced) -> None:
    bounded = traced.graph.clone()
    BoundMask()(bounded)
    assert not BoundMask()(bounded).modified
    bare = TEXT.replace("masked = Add(scores, mask)", "masked = Relu(scores)")
    assert not BoundMask()(ir.from_onnx_text(bare)).modified
    biased = TEXT.replace("masked = Add(scores, mask)", "twice = Mul(scores, mask) masked = Add(scores, twice)")
    assert not BoundMask()(ir.from_onnx_text(biased)).modified


@pytest.mark.parametrize("shape", ["int64[n, 1, 1, t]", "int64"])
def test_a_mask_of_another_shape_is_refused(shape: str) -> None:
    model = ir.from_onnx_text(TEXT.replace("int64[n, t] attention_mask", f"{shape} attention_mask"))
    with pytest.raises(ir.passes.PreconditionError) as caught:
        BoundMask()(model)
    assert str(caught.value) == "attention has a mask but 'attention_mask' is no input of 2 or 3 axes"
