"""A builder's refusal is told with the node of the graph and the layer of the model it came from."""

from pathlib import Path
from types import SimpleNamespace

from export.build_errors import explain_build, explain_parse
from tests.test_export.encoder_graph import linear_graph, save_graph


def fault(node: str, operator: str, said: str) -> SimpleNamespace:
    return SimpleNamespace(node_name=lambda: node, node_operator=lambda: operator, desc=lambda: said)


def test_a_fault_of_the_parser_names_node_and_layer() -> None:
    faults = [fault("bert.encoder.layer.0.output.dense/MatMul", "MatMul", "no\n such\ttype"), fault("a", "B", "c")]
    assert explain_parse(Path("model.onnx"), faults) == (
        "the builder refuses node 'bert.encoder.layer.0.output.dense/MatMul' (MatMul, model layer "
        "'bert.encoder.layer.0.output.dense') of model.onnx: no such type (and 1 more nodes); "
        "export it again with --target rtx or tensorrt"
    )
    assert explain_parse(Path("model.onnx"), [fault("MatMul_3", "MatMul", "no")]) == (
        "the builder refuses node 'MatMul_3' (MatMul) of model.onnx: no; export it again with --target rtx or tensorrt"
    )
    assert explain_parse(Path("model.onnx"), []) == (
        "the builder cannot read model.onnx and does not say why; export it again"
    )


def test_a_failed_build_names_the_node_that_its_errors_name_first(tmp_path: Path) -> None:
    path = save_graph(tmp_path, linear_graph())
    errors = ["starts badly", "no implementation for x_quant/DQ[0]", "Error Code 10: product failed"]
    assert explain_build(path, "tensorrt", errors, ()) == (
        f"the tensorrt builder cannot build {path} at node 'x_quant/DQ' (DequantizeLinear, model layer 'x_quant'): "
        "no implementation for x_quant/DQ[0]; run qdq lint on it"
    )


def test_a_failed_build_that_names_no_node_tells_the_last_error(tmp_path: Path) -> None:
    path = save_graph(tmp_path, linear_graph())
    assert explain_build(path, "rtx", ["first", "products are out"], ()) == (
        f"the rtx builder cannot build {path}: products are out; run qdq lint on it"
    )
    assert explain_build(path, "rtx", [], ()) == (
        f"the rtx builder cannot build {path}: it does not say why; run qdq lint on it"
    )
