"""Files that ``lint`` cannot read: one line that says why."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.external_data_helper import convert_model_to_external_data

from export.lint import lint
from qat.errors import ExportError
from tests.test_export.encoder_graph import save_graph
from tests.test_export.lint_graphs import in_branch, linear


def refusal(path: Path) -> str:
    with pytest.raises(ExportError) as caught:
        lint(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def graph_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in ("x", "y")]
    graph = helper.make_graph(list(nodes), "graph", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_a_path_without_a_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.onnx"):
        assert refusal(path) == f"{path} is no ONNX file; give the model.onnx of an exported folder"


@pytest.mark.parametrize(("content", "why"), [(b"not a graph", "cannot be read as ONNX"), (b"", "holds no ONNX graph")])
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)

    assert refusal(path).startswith(f"{path} {why}")
    assert refusal(path).endswith("; export it again")


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    path = save_graph(tmp_path, linear())
    path.write_bytes(path.read_bytes()[:-300])

    assert refusal(path).startswith(f"{path} cannot be read as ONNX")


def test_a_graph_that_runs_in_a_circle_is_refused(tmp_path: Path) -> None:
    path = save_graph(
        tmp_path,
        graph_of(
            helper.make_node("Add", ["x", "b"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Identity", ["a"], ["y"]),
        ),
    )

    assert refusal(path).startswith(f"{path} holds no valid ONNX graph (")


def test_a_node_that_lacks_an_input_is_refused(tmp_path: Path) -> None:
    path = save_graph(tmp_path, graph_of(helper.make_node("DequantizeLinear", ["x"], ["y"], name="short")))

    assert refusal(path) == (
        f"{path} holds no valid ONNX graph (DequantizeLinear 'short' has 1 inputs and 1 outputs, not 2 and 1); "
        "export it again"
    )


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (helper.make_node("Relu", ["nowhere"], ["y"], name="r"), "Relu 'r' reads 'nowhere', which nothing makes"),
        (helper.make_node("Relu", ["x"], ["z"], name="r"), "its output 'y' is made by nothing"),
        (helper.make_node("Cast", ["x"], ["y"], name="c"), "Cast 'c' has no attribute 'to'"),
        (helper.make_node("Constant", [], ["y"], name="c"), "Constant 'c' has not one value but none"),
    ],
)
def test_a_graph_that_contradicts_itself_is_refused(tmp_path: Path, node: onnx.NodeProto, why: str) -> None:
    path = save_graph(tmp_path, graph_of(node))

    assert refusal(path) == f"{path} holds no valid ONNX graph ({why}); export it again"


def test_a_branch_that_reads_what_nothing_makes_is_refused(tmp_path: Path) -> None:
    model = in_branch(linear())
    model.graph.node[0].attribute[1].g.node[0].input[0] = "nowhere"

    assert "QuantizeLinear 'x/Q' reads 'nowhere', which nothing makes" in refusal(save_graph(tmp_path, model))


def test_a_weight_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    model = linear()
    next(tensor for tensor in model.graph.initializer if tensor.name == "w").raw_data = b"short"

    assert "('w' does not hold what its type and shape say: " in refusal(save_graph(tmp_path, model))


def test_an_opset_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "(opset 0 is none)" in refusal(save_graph(tmp_path, linear(opset=0)))


def test_shapes_that_cannot_be_inferred_are_no_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = linear()
    del model.opset_import[:]

    assert lint(save_graph(tmp_path, model), target="rtx").nodes == 4
    assert caplog.records == []


def save_apart(folder: Path, location: str = "model.bin") -> Path:
    """A graph with every weight, scales included, in a file of its own."""
    path = folder / "model.onnx"
    model = linear(scale=np.float16(0))
    convert_model_to_external_data(model, location="model.bin", size_threshold=0)
    onnx.save(model, path)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_scales_are_read_from_external_data(tmp_path: Path) -> None:
    assert [each.rule for each in lint(save_apart(tmp_path)).findings] == ["scale-not-positive"]


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "deeper/../../weights.bin"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(10_000))
    folder = tmp_path / "model"
    folder.mkdir()
    path = save_apart(folder, location)

    assert refusal(path) == (
        f"{path} keeps 'zero' in '{location}', outside its folder {folder}: builders refuse that; "
        "copy the file beside it"
    )


def test_external_data_behind_a_link_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = save_apart(folder)
    (folder / "model.bin").rename(tmp_path / "elsewhere.bin")
    (folder / "model.bin").symlink_to(tmp_path / "elsewhere.bin")

    assert f"in 'model.bin', outside its folder {folder}" in refusal(path)


def test_external_data_that_is_missing_is_refused(tmp_path: Path) -> None:
    path = save_apart(tmp_path)
    (tmp_path / "model.bin").unlink()

    assert refusal(path) == (
        f"{path} keeps 'zero' in 'model.bin', which is not in {tmp_path}; copy the file there, or export again"
    )


def test_external_data_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = save_apart(tmp_path)
    file = tmp_path / "model.bin"
    file.write_bytes(file.read_bytes()[:100])

    assert "which has 100 bytes of" in refusal(path)


def test_external_data_with_a_second_hard_link_is_refused(tmp_path: Path) -> None:
    path = save_apart(tmp_path)
    os.link(tmp_path / "model.bin", tmp_path / "second.bin")

    assert refusal(path).endswith("which has several hard links, and ONNX refuses to read it; copy the file")
