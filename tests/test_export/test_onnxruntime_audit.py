"""ONNX Runtime's optimized graph tells which products are integer kernels."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.audit.onnxruntime_audit import audit_onnxruntime
from qat.errors import BuildError, ExportError
from tests.test_export.encoder_graph import GraphWriter, encoder_graph, save_graph


class FloatWriter(GraphWriter):
    """A writer of FP32 graphs; unsigned activations are what ONNX Runtime wants."""

    signed = False

    def quantize(self, x: str, name: str, scale: float = 0.05) -> str:
        middle = self.constant("zero", np.int8(0)) if self.signed else self.constant("middle", np.uint8(128))
        facts = [self.constant(f"{name}/scale", np.float32(scale)), middle]
        return self.node(
            "DequantizeLinear", [self.node("QuantizeLinear", [x, *facts], f"{name}/Q"), *facts], f"{name}/DQ"
        )

    def weight(self, name: str, *shape: int) -> str:
        facts = [self.constant("w_scale", np.float32(0.01)), self.constant("zero", np.int8(0))]
        values = self.constant(f"{name}/w", self.rng.integers(-100, 100, shape).astype(np.int8))
        return self.node("DequantizeLinear", [values, *facts], f"{name}/wDQ")

    def floats(self, name: str, *shape: int) -> str:
        return self.constant(name, self.rng.normal(size=shape).astype(np.float32))


def finish(w: FloatWriter, output: str, rows: list[str | int], shape: list[str | int]) -> onnx.ModelProto:
    graph = helper.make_graph(
        w.nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*rows, 64])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        list(w.weights.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def mixed_graph(
    *, output_q: bool = True, signed: bool = False, dynamic: bool = True, names: bool = True
) -> onnx.ModelProto:
    """Two linears on one tensor, a convolution, and a float product at the end."""
    w = FloatWriter()
    w.signed = signed
    shared = w.quantize("x", "shared")
    y = w.node("Add", [w.node("MatMul", [shared, w.weight("left", 64, 64)], "left"), w.floats("bias", 64)], "left/bias")
    y = w.node("Mul", [y, w.node("MatMul", [shared, w.weight("right", 64, 64)], "right")], "gate")
    y = w.quantize(w.node("Transpose", [y], "turn", perm=[0, 2, 1]), "conv/input")
    y = w.node("Conv", [y, w.weight("conv", 64, 32, 3)], "conv", group=2, pads=[1, 1])
    y = w.quantize(y, "conv/output") if output_q else y
    y = w.node("ReduceMean", [y, w.constant("axis", np.array([2]))], "mean", keepdims=0)
    output = w.node("MatMul", [y, w.floats("head/w", 64, 3)], "head")
    if not names:
        for node in w.nodes:
            node.name = ""
    rows: list[str | int] = ["batch", "sequence"] if dynamic else [8, 16]
    return finish(w, output, rows, [rows[0], 3])


def counts(path: Path) -> tuple[int, int, int]:
    audit = audit_onnxruntime(path)
    return audit.int8_gemms, audit.float_gemms, audit.unplanned_gemms


def reasons(path: Path) -> dict[str, str]:
    return {row.name: row.reason for row in audit_onnxruntime(path).rows if row.reason}


def test_what_became_an_integer_kernel_is_int8_and_named_by_its_kernel(tmp_path: Path) -> None:
    audit = audit_onnxruntime(save_graph(tmp_path, mixed_graph()))
    assert (audit.int8_gemms, audit.float_gemms, audit.unplanned_gemms) == (3, 0, 1)
    assert {row.name: row.operation for row in audit.rows} == {
        "left": "MatMulIntegerToFloat",
        "right": "MatMulIntegerToFloat",
        "conv": "QLinearConv",
        "head": "MatMul",
    }
    assert [row.reason for row in audit.rows] == ["", "", "", "not planned: no DequantizeLinear feeds it"]
    assert audit.operations["MatMulIntegerToFloat"] == 2
    assert [row.planned for row in audit.rows] == [True, True, True, False]


def test_a_product_with_a_quantized_output_is_int8_too(tmp_path: Path) -> None:
    w = FloatWriter()
    product = w.node("MatMul", [w.quantize("x", "input"), w.weight("w", 64, 8)], "product")
    model = finish(w, w.quantize(product, "output"), ["batch", "sequence"], ["batch", "sequence", 8])
    audit = audit_onnxruntime(save_graph(tmp_path, model))
    assert [(row.name, row.operation) for row in audit.rows] == [("product", "QLinearMatMul")]
    assert audit.int8_gemms == 1


def test_nodes_without_names_are_found_all_the_same(tmp_path: Path) -> None:
    path = save_graph(tmp_path, mixed_graph(names=False))
    assert counts(path) == (3, 0, 1)
    assert set(reasons(path)) == {"node_of_head:0"}


def test_products_that_share_a_signed_dequantizer_stay_float_and_say_so(tmp_path: Path) -> None:
    path = save_graph(tmp_path, mixed_graph(signed=True))
    assert counts(path) == (1, 2, 1)
    expected = (
        "MatMul in float: the DequantizeLinear of 'shared/DQ:0' feeds 2 nodes, an INT8 one must be private "
        "(a UINT8 one need not); export with --target onnxruntime"
    )
    assert reasons(path)["left"] == reasons(path)["right"] == expected


def test_a_convolution_without_a_quantized_output_stays_float(tmp_path: Path) -> None:
    path = save_graph(tmp_path, mixed_graph(output_q=False))
    assert counts(path) == (2, 1, 1)
    assert reasons(path)["conv"] == "Conv in float: a convolution fuses only with a QuantizeLinear on its output"


def test_fixed_shapes_lose_the_linear_whose_bias_is_fused_first(tmp_path: Path) -> None:
    path = save_graph(tmp_path, mixed_graph(dynamic=False))
    assert counts(path) == (2, 1, 1)
    assert reasons(path)["left"] == (
        "Gemm in float: with fixed shapes the bias was fused first; export with --target onnxruntime"
    )


def test_the_graph_for_tensorrt_keeps_only_its_attention_int8(tmp_path: Path) -> None:
    path = save_graph(tmp_path, encoder_graph(layers=1))
    assert counts(path) == (2, 6, 2)
    assert {row.name for row in audit_onnxruntime(path).rows if not row.reason} == {
        "encoder/0/scores",
        "encoder/0/context",
    }
    assert reasons(path)["encoder/0/out/MatMul"] == (
        "MatMul in float: 'encoder/0/out/input/DQ:0' has FLOAT16 scales, FP32 fuses; export with --target onnxruntime"
    )


def test_a_half_quantized_product_names_the_float_operand(tmp_path: Path) -> None:
    w = FloatWriter()
    output = w.node("MatMul", ["x", w.weight("w", 64, 8)], "product")
    path = save_graph(tmp_path, finish(w, output, ["batch", "sequence"], ["batch", "sequence", 8]))
    assert counts(path) == (0, 1, 0)
    assert reasons(path) == {"product": "one operand only is quantized: 'x' stays float"}


def test_weights_kept_beside_the_graph_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(mixed_graph(), path, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    assert (tmp_path / "weights.bin").is_file()
    assert counts(path) == (3, 0, 1)


def test_a_graph_that_onnxruntime_refuses_is_an_error_of_one_line(tmp_path: Path) -> None:
    w = FloatWriter()
    path = save_graph(tmp_path, finish(w, w.node("Identity", ["x"], "same"), ["batch"], ["batch", 64]))
    model = onnx.load(path)
    model.graph.node[0].op_type = "Unheard"
    onnx.save(model, path)
    with pytest.raises(BuildError, match=r"^ONNX Runtime refuses .*model\.onnx: .*Unheard.*use --target onnxruntime$"):
        audit_onnxruntime(path)


def test_a_file_that_is_no_graph_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"model\.onnx is no ONNX file; give the model\.onnx of an exported folder"):
        audit_onnxruntime(tmp_path / "model.onnx")
