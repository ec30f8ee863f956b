"""Layer tables of every form are read; what cannot be read is never a pass."""

import json
from pathlib import Path
from typing import Any

import pytest

from export.audit.layer_table import EngineLayer, TensorFact, read_layer_table
from export.engine_build import EngineSpec, ShapeRange, build_engine, parse_shapes
from tests.test_export.encoder_graph import encoder_graph, save_graph

FLAT = "Strides: [64,1], StrideOrder: [1,0]"
LINEAR = "Format: (Linear) Row major linear format"
GEMM = (
    "Name: a/MatMul+b/MatMul_myl0_2, LayerType: gemm, "
    f"Inputs: [ {{ Name: x[0], y, Dimensions: [-1,64], {FLAT}, Datatype: Int8, {LINEAR} }}], "
    f"Constants: [ {{ Name: w, Dimensions: [64,192], {FLAT}, Datatype: Int8, {LINEAR} }}, "
    f"{{ Name: alpha, Dimensions: [1], Strides: [1], StrideOrder: [0], Datatype: Float, {LINEAR} }}], "
    f"Outputs: [ {{ Name: z, Dimensions: [-1,192], {FLAT}, Datatype: Half, {LINEAR} }}], "
    "TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: a/MatMul]\x1f[ONNX Layer: b[0]/MatMul]"
)
WAIT = (
    "Name: w, LayerType: wait, Inputs: [], Constants: [], Outputs: [], "
    "TacticName: , StreamId: 1, EventId: 1, Metadata: "
)
BOUND = (
    "\nI/O Tensors:\n Name: x, IOMode: Input, DataType: Int64, Dimensions: [-1,-1]\n"
    "\nEngine Metadata:\n Multi-Device: Disabled"
)


def table(*lines: str) -> str:
    return "\n".join(["Layers:", *lines, BOUND])


def only(layers: tuple[EngineLayer, ...]) -> EngineLayer:
    (layer,) = layers
    return layer


def test_a_printed_line_becomes_a_layer_with_everything_it_says() -> None:
    read = read_layer_table(table(GEMM))
    assert read.reason is None
    assert only(read.layers) == EngineLayer(
        name="a/MatMul+b/MatMul_myl0_2",
        kind="gemm",
        inputs=(TensorFact(name="x[0], y", dtype="Int8", shape=(-1, 64)),),
        outputs=(TensorFact(name="z", dtype="Half", shape=(-1, 192)),),
        constants=(
            TensorFact(name="w", dtype="Int8", shape=(64, 192)),
            TensorFact(name="alpha", dtype="Float", shape=(1,)),
        ),
        metadata=("a/MatMul", "b[0]/MatMul"),
    )


@pytest.mark.parametrize("separator", ["\x1e", "\x1f", ""])
def test_metadata_separators_of_every_release_are_read(separator: str) -> None:
    line = GEMM.replace("\x1f", separator)
    assert only(read_layer_table(table(line)).layers).metadata == ("a/MatMul", "b[0]/MatMul")


def test_streams_waiting_for_each_other_are_no_kernels() -> None:
    read = read_layer_table(table(WAIT, GEMM))
    assert [layer.is_kernel for layer in read.layers] == [False, True]


def test_bytes_are_those_of_the_type_and_unknown_where_an_axis_is_dynamic() -> None:
    assert TensorFact(name="x", dtype="Half", shape=(8, 128, 64)).bytes == 8 * 128 * 64 * 2
    assert TensorFact(name="x", dtype="Int4", shape=(3, 5)).bytes == 7.5
    assert TensorFact(name="x", dtype="Float", shape=()).bytes == 4
    assert TensorFact(name="x", dtype="Half", shape=(-1, 64)).bytes is None
    assert TensorFact(name="x", dtype="Novel", shape=(2,)).bytes is None
    assert only(read_layer_table(table(GEMM)).layers).activation_bytes is None
    assert only(read_layer_table(table(GEMM.replace("-1", "10"))).layers).activation_bytes == 10 * 64 + 10 * 192 * 2


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "the builder printed no layer table"),
        ("", "the layer table is neither a printed table nor JSON"),
        ("Layers:\n", "the layer table is empty"),
        (table(GEMM, "Name: odd"), "a line of the layer table is not understood: 'Name: odd'"),
        (
            table(GEMM.replace("Dimensions", "Extent", 1)),
            "a tensor of the layer 'a/MatMul+b/MatMul_myl0_2' is not understood",
        ),
        ({"Layers": ["gemm_1"]}, "the inspector names layers without detail; build with profiling_verbosity DETAILED"),
        ({"Layers": []}, "the layer table is empty"),
        ({"Bindings": []}, "the inspector's answer has no list of layers"),
        ([{"Name": "x"}], "a layer of the inspector's answer is not understood: KeyError('LayerType')"),
        ("7", "the inspector's answer has no list of layers"),
    ],
)
def test_what_is_not_understood_is_no_table_and_says_why(source: Any, reason: str) -> None:
    read = read_layer_table(source)
    assert (read.layers, read.reason) == ((), reason)


def inspected(**tensor: str) -> dict[str, Any]:
    facts = {"Name": "x", "Location": "Device", "Dimensions": [8, 64], **tensor}
    return {
        "Name": "encoder/MatMul",
        "LayerType": "CaskGemmConvolution",
        "Inputs": [facts],
        "Outputs": [{**facts, "Name": "y", "Dimensions": [8, 32]}],
        "Weights": {"Type": "Int8", "Count": 2048},
        "Bias": {"Type": "Float", "Count": 32},
        "TacticName": "sm80_xmma_gemm_i8i8",
        "Metadata": "[ONNX Layer: encoder/wDQ]\x1e[ONNX Layer: encoder/MatMul]",
    }


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        ({"Format/Datatype": "Row major linear FP16 format"}, "Half"),
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}, "Int8"),
        ({"Format": "Row major linear format", "Datatype": "Half"}, "Half"),
        ({"Format": "Row major linear format", "DataType": "FP32"}, "Float"),
    ],
)
@pytest.mark.parametrize("key", ["Bindings", "I/O Tensors"])
def test_the_inspector_of_either_major_release_is_read(tensor: dict[str, str], dtype: str, key: str) -> None:
    layers = [inspected(**tensor)]
    document: dict[str, Any] = {"Layers": layers, key: ["x", "y"]}
    for source in (document, json.dumps(document), layers):
        layer = only(read_layer_table(source).layers)
        assert layer.inputs == (TensorFact(name="x", dtype=dtype, shape=(8, 64)),)
        assert layer.constants == (TensorFact(name="encoder/MatMul/Weights", dtype="Int8", shape=(2048,)),)
        assert layer.metadata == ("encoder/wDQ", "encoder/MatMul")


def test_a_real_table_is_read_whole_and_its_tensors_connect(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    path = save_graph(tmp_path, encoder_graph())
    for shapes in (ShapeRange.fixed(8, 128), parse_shapes("1x16,8x128,32x384")):
        text = build_engine(path, EngineSpec(builder="rtx", shapes=shapes, hardware=("sm_89",))).layer_table
        assert text is not None
        read = read_layer_table(text)
        assert len(read.layers) == text.count("LayerType: ")
        facts = [t for layer in read.layers for t in (*layer.inputs, *layer.outputs, *layer.constants)]
        assert len(facts) == text.partition("I/O Tensors")[0].count("Datatype: ")
        assert {fact.dtype for fact in facts} == {"Int8", "Half", "Float", "Int64"}
        produced = {"input_ids", "attention_mask"} | {t.name for layer in read.layers for t in layer.outputs}
        assert {t.name for layer in read.layers for t in layer.inputs} <= produced
        assert all((fact.bytes is None) is (-1 in fact.shape) for fact in facts)


@pytest.mark.parametrize("size", ["9" * 5000, "9" * 40, "1-2"])
def test_a_tensor_larger_than_any_memory_is_no_tensor(size: str) -> None:
    printed = read_layer_table(table(GEMM.replace("[64,192]", f"[{size}]")))
    assert printed.reason == "a tensor of the layer 'a/MatMul+b/MatMul_myl0_2' is not understood"
    tensor = f'{{"Name": "x", "Dimensions": ["{size}"]}}'
    layer = f'{{"Name": "a", "LayerType": "gemm", "Inputs": [{tensor}], "Outputs": []}}'
    assert str(read_layer_table(f'{{"Layers": [{layer}]}}').reason).startswith(
        "a layer of the inspector's answer is not understood: ValueError("
    )


def test_a_table_that_nests_without_end() -> None:
    assert read_layer_table("[" * 100_000).reason == "the layer table is neither a printed table nor JSON"
