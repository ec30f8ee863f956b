"""Graphs made to harm: refused in one line by whatever takes a graph, in bounded memory and time."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.external_data_helper import convert_model_to_external_data

from export.engine import audit, build
from export.lint import lint
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from export.runners.openvino_runner import OpenVinoRunner
from qat.artefacts import MANIFEST
from qat.errors import BuildError, CheckpointError, ExportError, QDQError
from tests.bounded import bounded
from tests.test_export.encoder_graph import linear_graph, save_graph

ENDS = {
    "parent": "../weights.bin",
    "detour": "x/../../weights.bin",
    "absolute": "{d}/weights.bin",
    "link": "model.bin",
}
"""How external data leaves the folder of its graph."""


@pytest.fixture(autouse=True)
def _bounds() -> Iterator[None]:
    with bounded():
        yield


def write_apart(folder: Path, location: str) -> Path:
    """A graph whose weights lie where the location says; a link of its folder leads out of it."""
    (folder / "model").mkdir()
    (folder / "weights.bin").write_bytes(bytes(100_000))
    (folder / "model" / "model.bin").symlink_to(folder / "weights.bin")
    model = linear_graph((2, 4))
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    path = folder / "model" / "model.onnx"
    onnx.save(model, path)
    (path.parent / "weights.bin").unlink()
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    return path


def audit_for(target: str) -> Callable[[Path], object]:
    def run(path: Path) -> object:
        (path.parent / MANIFEST).write_text(f'{{"target": "{target}"}}')
        return audit(path)

    return run


READERS: dict[str, Callable[[Path], object]] = {
    "lint": lint,
    "build": lambda path: build(path, path.parent.parent / "model.engine"),
    "audit": audit,
    "audit onnxruntime": audit_for("onnxruntime"),
    "audit openvino": audit_for("openvino"),
}
"""What reads a graph by our own rules."""


def refusal(kind: type[QDQError], read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(kind) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("way", ENDS)
def test_data_outside_the_folder_is_read_by_nothing(way: str, reader: str, tmp_path: Path) -> None:
    location = ENDS[way].format(d=tmp_path)
    path = write_apart(tmp_path, location)
    assert refusal(ExportError, READERS[reader], path) == (
        f"{path} keeps 'x_quant/scale' in '{location}', outside its folder {path.parent}: builders refuse that; "
        "copy the file beside it"
    )


@pytest.mark.parametrize("way", ENDS)
def test_nor_does_a_runtime_read_it(way: str, tmp_path: Path) -> None:
    path = write_apart(tmp_path, ENDS[way].format(d=tmp_path))
    said = refusal(CheckpointError, OnnxRuntimeRunner, path)
    assert said.startswith(f"ONNX Runtime cannot load {path}: ")
    assert "External data path validation failed for initializer: x_quant/scale" in said
    said = refusal(CheckpointError, OpenVinoRunner, path)
    assert said.startswith(f"OpenVINO cannot load {path}: ")
    assert f"is outside the base directory '{path.parent}'" in said


def test_a_weight_of_giant_declared_shape_takes_no_memory(tmp_path: Path) -> None:
    model = linear_graph((2, 4))
    next(tensor for tensor in model.graph.initializer if tensor.name == "w").dims[:] = [2**31, 2**31]
    path = save_graph(tmp_path, model)
    for reader in (lint, READERS["build"]):
        assert f"{path} holds no valid ONNX graph ('w' does not hold what its type and shape say: " in refusal(
            ExportError, reader, path
        )
    for reader in (OnnxRuntimeRunner, OpenVinoRunner):
        assert f"cannot load {path}: " in refusal(CheckpointError, reader, path)


def write_filled(folder: Path, *shape: int) -> Path:
    """A graph of a few bytes that asks for a tensor of that shape while it runs."""
    nodes = [
        helper.make_node(
            "Constant", [], ["size"], value=helper.make_tensor("s", TensorProto.INT64, [len(shape)], shape)
        ),
        helper.make_node("ConstantOfShape", ["size"], ["filled"]),
        helper.make_node("ReduceSum", ["filled"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "filled", values[:1], values[1:])
    return save_graph(folder, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def test_a_graph_that_asks_for_more_than_any_memory_is_refused_where_it_runs(tmp_path: Path) -> None:
    path = write_filled(tmp_path, 2**40)
    runner, feed = OnnxRuntimeRunner(path), {"x": np.zeros((2, 4), np.float32)}
    with pytest.raises(CheckpointError) as caught:
        runner.infer(feed)
    said = str(caught.value)
    assert said.startswith(f"{path} was loaded and cannot be run by ONNX Runtime on x of 2x4: ")
    assert said.endswith("; export it again")
    assert (
        refusal(CheckpointError, OpenVinoRunner, path)
        == f"OpenVINO cannot load {path}: std::bad_alloc; export it again"
    )
    assert refusal(BuildError, READERS["audit openvino"], path).startswith(f"OpenVINO refuses {path}: ")


REFUSED_RUNS: dict[str, tuple[type[OnnxRuntimeRunner] | type[OpenVinoRunner], str]] = {
    "ONNX Runtime": (
        OnnxRuntimeRunner,
        "cannot be reshaped to the requested shape. Input shape:{2,3}",
    ),
    "OpenVINO": (OpenVinoRunner, "the shape of input data (2.3) conflicts with the reshape pattern (3.3)"),
}
"""What each runtime says of rows that do not fit a shape which the graph keeps as numbers."""


@pytest.mark.parametrize("runtime", REFUSED_RUNS)
def test_a_graph_that_takes_some_batches_only_is_refused_for_the_others(runtime: str, tmp_path: Path) -> None:
    kept = helper.make_tensor("kept", TensorProto.INT64, [2], [3, 3])
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])]
    values.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 3]))
    node = helper.make_node("Reshape", ["x", "kept"], ["y"])
    graph = helper.make_graph([node], "three rows", values[:1], values[1:], [kept])
    path = save_graph(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    load, reason = REFUSED_RUNS[runtime]
    runner = load(path)
    said = refusal(CheckpointError, lambda _: runner.infer({"x": np.ones((2, 3), np.float32)}), path)
    assert said.startswith(f"{path} was loaded and cannot be run by {runtime} on x of 2x3: ")
    assert reason in said
    assert said.endswith("; export it again")
    assert "\n" not in said
    assert runner.infer({"x": np.ones((3, 3), np.float32)})["y"].sum() == 9


@pytest.mark.parametrize("reader", READERS)
def test_a_graph_that_contradicts_itself_reaches_no_builder_and_no_runtime(reader: str, tmp_path: Path) -> None:
    model = linear_graph((2, 4))
    del model.graph.node[0].output[:]
    path = save_graph(tmp_path, model)
    assert refusal(ExportError, READERS[reader], path) == (
        f"{path} holds no valid ONNX graph (QuantizeLinear 'x_quant/Q' makes nothing); export it again"
    )


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = save_graph(tmp_path, linear_graph((2, 4)))
    read, damaged = b"\x0dx_quant/scale\x0a\x04zero\x12\x0cx", b"\x0dx_quant/\xcacale\x0a\x04zero\x12\x0cx"
    path.write_bytes(path.read_bytes().replace(read, damaged))
    codec = "'utf-8' codec can't decode byte 0xca in position "
    said = refusal(CheckpointError, OnnxRuntimeRunner, path)
    assert said.startswith(f"ONNX Runtime cannot load {path}: {codec}")
    for reader in READERS.values():
        assert refusal(ExportError, reader, path) == (
            f"{path} holds no valid ONNX graph (the names of 'x_quant/DQ' are no text); export it again"
        )
