"""TieTables: a tied decoder's matrix is in the file once, whatever the family and target, and no number changes."""

from functools import cache

import numpy as np
import onnx_ir as ir
import pytest

from export.exported import Lowering, lower_graph, trace_model
from export.passes.tie_tables import TieTables
from export.targets import find_target, list_targets
from qat.huggingface import quantization_config
from tests.calibrated import make_calibrated
from tests.test_export.tiny_models import Batch, make_batch, run_graph
from tests.tiny import TINY_MODELS
from tests.tiny_heads import head_model

WORDS = 195


@cache
def trace(family: str) -> ir.Model:
    """The graph of a family's masked-language model; lowering copies it."""
    model = make_calibrated(head_model("fill-mask", family, layers=1))
    quantization_config(model).task = {"name": "fill-mask", "inputs": ["input_ids", "attention_mask"]}
    return trace_model(model)


def tables(graph: ir.Model) -> list[str]:
    """The matrices with a row or column for each word."""
    every = graph.graph.initializers.items()
    return [
        name for name, value in every if value.shape is not None and value.shape.rank() == 2 and WORDS in value.shape
    ]


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name == "bert" else pytest.mark.long) for name in TINY_MODELS]
)
def test_the_words_are_in_the_file_once(family: str) -> None:
    graph = trace(family)
    assert len(tables(graph)) == 2
    for name in list_targets():
        target = find_target(name)
        for quantized in (True, False):
            lowering = Lowering(target, target.default_precision, quantized=quantized)
            assert len(tables(lower_graph(graph, lowering))) == 1


def test_no_number_changes() -> None:
    graph = trace("bert")
    tied = graph.clone()
    assert TieTables()(tied).modified
    assert not TieTables()(tied).modified
    batch: Batch = make_batch(3, 9)
    assert (run_graph(tied, batch) == run_graph(graph, batch)).all()


def looked_up(second: np.ndarray, operation: str = "MatMul") -> ir.Model:
    """Rows of a table times a matrix."""
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    values = [
        ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=ir.tensor(array)
        )
        for name, array in (("table", table), ("matrix", second))
    ]
    tokens = ir.val("tokens", dtype=ir.DataType.INT64, shape=("batch",))
    rows = ir.node("Gather", [values[0], tokens])
    product = ir.node(operation, [rows.outputs[0], values[1]])
    graph = ir.Graph([tokens], product.outputs, nodes=[rows, product], initializers=values, opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(
    ("second", "operation", "tied"),
    [
        (np.arange(6, dtype=np.float32).reshape(3, 2).T, "MatMul", True),
        (np.arange(6, dtype=np.float32).reshape(3, 2).T + np.float32(1e-6), "MatMul", False),
        (np.arange(6, dtype=np.float32).reshape(2, 3), "MatMul", False),
        (np.arange(6, dtype=np.float32).reshape(3, 2).T, "Gemm", False),
    ],
)
def test_only_an_exact_transpose_that_a_product_reads_is_tied(second: np.ndarray, operation: str, tied: bool) -> None:
    model = looked_up(second, operation)
    assert TieTables()(model).modified is tied
    assert ("matrix" not in model.graph.initializers) is tied


def test_a_tied_table_stays_float_where_tables_are_asked_for_in_int8() -> None:
    graph = trace("bert")
    lowering = Lowering(find_target("onnxruntime"), "fp32")
    plain = lower_graph(graph, lowering)
    small = lower_graph(
        graph,
        Lowering(
            find_target("onnxruntime"), "fp32", settings=lowering.settings.model_copy(update={"embeddings": "int8"})
        ),
    )
    assert tables(small) == tables(plain)
