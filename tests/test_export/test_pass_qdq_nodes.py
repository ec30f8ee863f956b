"""What passes ask of a graph: constants, operands, nodes by type, initializers under free names."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from export.passes.qdq_nodes import (
    add_initializer,
    constant,
    constant_shape,
    nodes_of,
    operand,
    quantizes_constant,
    remove_dead,
    zero_point,
)

TEXT = """
<ir_version: 10, opset_import: ["" : 20, "other" : 1]>
agraph (float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}, float s = {0.5}, int8 z = {0}, float unread = {1.0}> {
    [made] c = Constant <value_floats: floats = [3.0, 4.0]> ()
    [weight] a = QuantizeLinear(w, s, z)
    [activation] b = QuantizeLinear(x, s)
    [foreign] d = other.QuantizeLinear(x, s)
    [clip] e = Clip(x, , s)
    y = Add(e, c)
}
"""


def make_graph() -> ir.Model:
    return ir.from_onnx_text(TEXT)


def node(model: ir.Model, name: str) -> ir.Node:
    return next(each for each in model.graph if each.name == name)


def test_initializers_and_constant_nodes_are_constants_and_inputs_are_not() -> None:
    model = make_graph()
    assert np.array_equal(constant(model.graph.initializers["w"]), [1.0, 2.0])  # type: ignore[arg-type]
    assert np.array_equal(constant(node(model, "made").outputs[0]), [3.0, 4.0])  # type: ignore[arg-type]
    assert constant(model.graph.inputs[0]) is None
    assert constant(None) is None
    assert constant_shape(model.graph.initializers["w"]) == (2,)
    assert constant_shape(model.graph.initializers["s"]) == ()
    with pytest.raises(ir.passes.PreconditionError, match=r"^'x' is not a constant$"):
        constant_shape(model.graph.inputs[0])


def test_an_operand_that_is_left_out_is_named() -> None:
    model = make_graph()
    assert operand(node(model, "clip"), 2).name == "s"
    with pytest.raises(ir.passes.PreconditionError, match=r"^Clip 'clip' has no input 1$"):
        operand(node(model, "clip"), 1)
    with pytest.raises(ir.passes.PreconditionError, match=r"^QuantizeLinear 'activation' has no input 2$"):
        operand(node(model, "activation"), 2)


def test_nodes_of_other_domains_are_not_ours() -> None:
    model = make_graph()
    assert [each.name for each in nodes_of(model, "QuantizeLinear", "Clip")] == ["weight", "activation", "clip"]
    assert [quantizes_constant(each) for each in nodes_of(model, "QuantizeLinear")] == [True, False]


def test_the_graph_may_change_while_its_nodes_are_walked() -> None:
    model = make_graph()
    for each in nodes_of(model, "QuantizeLinear"):
        model.graph.remove(each)
    assert list(nodes_of(model, "QuantizeLinear")) == []


def test_the_same_content_is_stored_once_and_other_content_gets_a_free_name() -> None:
    model = make_graph()
    first = add_initializer(model, "w", np.array([1.0, 2.0], np.float32))
    assert first is model.graph.initializers["w"]
    others: list[NDArray[np.generic]] = [
        np.array([1.0, 3.0], np.float32),
        np.array([1.0, 2.0], np.float16),
        np.array([[1.0, 2.0]], np.float32),
    ]
    names = [add_initializer(model, "w", each).name for each in others]
    assert len({"w", *names}) == 4
    for name, array in zip(names, others, strict=True):
        stored = constant(model.graph.initializers[name or ""])
        assert stored is not None
        assert stored.dtype == array.dtype
        assert np.array_equal(stored, array)


def test_a_zero_point_is_one_initializer_for_each_type_value_and_shape() -> None:
    model = make_graph()
    made = [zero_point(model, np.int8, 0, ()), zero_point(model, np.int8, 0, ()), zero_point(model, np.uint8, 128, ())]
    wide = zero_point(model, np.int8, 0, (3,))
    assert [value.name for value in (*made, wide)] == [
        "zero_point_int8_0_scalar",
        "zero_point_int8_0_scalar",
        "zero_point_uint8_128_scalar",
        "zero_point_int8_0_3",
    ]
    assert made[0] is made[1]
    assert [str(value.shape) for value in (made[0], wide)] == ["[]", "[3]"]
    assert constant_shape(made[0]) == ()


def test_what_nobody_reads_goes() -> None:
    model = make_graph()
    remove_dead(model)
    assert [each.op_type for each in model.graph] == ["Constant", "Clip", "Add"]
    assert set(model.graph.initializers) == {"s"}
