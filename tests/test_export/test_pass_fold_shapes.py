"""FoldShapes: arithmetic on sizes goes where they are known anyway, and no number changes."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from export.exported import Lowering, lower_graph
from export.passes.fold_shapes import FoldShapes
from export.passes.qdq_nodes import constant, nodes_of, operand
from export.targets import find_target
from tests.test_export.conftest import Trace
from tests.test_export.tiny_models import DEFAULTS, SHAPES, Case, Traced, make_batch, run_graph

ROWS = ("batch", "tokens")
COMPUTED = ("Concat", "Expand", "GatherElements")


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
def test_no_number_changes_at_any_shape(case: Case, trace: Trace) -> None:
    graph = trace(case).graph.clone()
    assert FoldShapes()(graph).modified
    assert not FoldShapes()(graph).modified
    for shape in SHAPES:
        batch = make_batch(*shape)
        assert (run_graph(graph, batch) == run_graph(trace(case).graph, batch)).all()


def test_an_encoder_computes_the_length_of_its_positions_and_nothing_else(bert: Traced) -> None:
    graph = lower_graph(bert.graph, Lowering(find_target("rtx"), "fp16"))
    count = Counter(node.op_type for node in graph.graph)
    assert [count[each] for each in (*COMPUTED, "Shape", "Slice", "Split")] == [0, 0, 0, 1, 1, 2]
    assert all(constant(operand(node, 1)) is not None for node in nodes_of(graph, "Reshape"))


def value(name: str, shape: tuple[int | str, ...], array: np.ndarray | None = None) -> ir.Value:
    dtype = ir.DataType.FLOAT if array is None else ir.DataType.from_numpy(array.dtype)
    tensor = None if array is None else ir.tensor(array, name=name)
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)


def reshaped(before: tuple[int | str, ...], after: tuple[int | str, ...]) -> ir.Node:
    """A Reshape of ``x`` to a shape that is computed, after the pass."""
    x, known = value("x", before), value("known", (len(after),), np.ones(len(after), np.int64))
    shape = ir.node("Abs", [known])
    node = ir.node("Reshape", [x, shape.outputs[0]], {"allowzero": 1})
    node.outputs[0].shape = ir.Shape(after)
    graph = ir.Graph([x], node.outputs, nodes=[shape, node], initializers=[known], opset_imports={"": 20})
    FoldShapes()(ir.Model(graph, ir_version=10))
    return node


@pytest.mark.parametrize(
    ("before", "after", "target"),
    [
        ((*ROWS, 64), (*ROWS, 2, 32), [0, 0, 2, 32]),
        ((*ROWS, 2, 32), (*ROWS, 64), [0, 0, 64]),
        ((*ROWS, 64), ("batch*tokens", 64), [-1, 64]),
        (("batch", 64, "tokens"), ("batch", 2, 32, "tokens"), [0, 2, 32, -1]),
    ],
)
def test_a_known_target_is_constant(
    before: tuple[int | str, ...], after: tuple[int | str, ...], target: list[int]
) -> None:
    node = reshaped(before, after)
    assert np.array_equal(np.asarray(constant(operand(node, 1))), target)
    assert "allowzero" not in node.attributes


@pytest.mark.parametrize("after", [("batch*tokens", "other"), ("batch", "tokens", 0)])
def test_a_target_that_is_not_known_stays(after: tuple[int | str, ...]) -> None:
    node = reshaped(("all", 64), after)
    assert constant(operand(node, 1)) is None
    assert node.attributes["allowzero"].as_int() == 1


@pytest.mark.parametrize(("indices", "folds"), [([1, 1, 1], True), ([1, 0, 1], False)])
@pytest.mark.parametrize(("operation", "adds"), [("Add", True), ("Mul", False)])
def test_one_row_for_all_tokens_is_stored(indices: list[int], operation: str, *, folds: bool, adds: bool) -> None:
    x, size = value("x", (*ROWS, 4)), value("size", (2,))
    table = value("table", (2, 4), np.arange(8, dtype=np.float32).reshape(2, 4))
    row = value("row", (1, 3), np.array([indices]))
    expand = ir.node("Expand", [row, size])
    gather = ir.node("Gather", [table, expand.outputs[0]])
    gather.outputs[0].shape = ir.Shape((*ROWS, 4))
    add = ir.node(operation, [x, gather.outputs[0]])
    graph = ir.Graph(
        [x, size], add.outputs, nodes=[expand, gather, add], initializers=[table, row], opset_imports={"": 20}
    )
    assert FoldShapes()(ir.Model(graph, ir_version=10)).modified is (folds and adds)
    stored = constant(add.inputs[1])
    assert (stored is not None) is (folds and adds)
    assert [node.op_type for node in graph] == (["Add"] if folds and adds else ["Expand", "Gather", operation])
