"""An ONNX file is read, or refused with one line."""

from collections.abc import Iterator
from math import ceil
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from qat.errors import ExportError


def read_graph(onnx_path: Path, *, weights: bool = False) -> onnx.ModelProto:
    """The model of a file, with its external weights or without.

    Raises:
        ExportError: no readable ONNX file, or external data that is missing, too short, or outside its folder.
    """
    if not Path(onnx_path).is_file():
        raise ExportError(f"{onnx_path} is no ONNX file; give the model.onnx of an exported folder")
    try:
        model = onnx.load(onnx_path, load_external_data=False)
        for tensor in _external_tensors(model.graph):
            _require_data(Path(onnx_path), ir.serde.deserialize_tensor(tensor))
        if weights:
            onnx.load_external_data_for_model(model, str(Path(onnx_path).parent))
    except (DecodeError, OSError, onnx.checker.ValidationError) as error:
        said = " ".join(str(error).split())
        raise ExportError(f"{onnx_path} cannot be read as ONNX ({said}); export it again") from error
    if not model.graph.node:
        raise ExportError(f"{onnx_path} holds no ONNX graph; export it again")
    return model


def read_fixed_shape(onnx_path: Path) -> tuple[int, int] | None:
    """The one (batch, sequence) that a file's inputs take, ``None`` where an axis of theirs is free or they differ.

    Raises:
        ExportError: as for ``read_graph``.
    """
    graph = read_graph(onnx_path).graph
    weights = {tensor.name for tensor in graph.initializer}
    shapes = {
        tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in graph.input
        if value.name not in weights
    }
    sizes = shapes.pop() if len(shapes) == 1 else ()
    return (sizes[0], sizes[1]) if len(sizes) == 2 and min(sizes) > 0 else None


def list_files(onnx_path: Path) -> list[Path]:
    """The file itself and those that its weights lie in.

    Raises:
        ExportError: as for ``read_graph``.
    """
    outside = {ExternalDataInfo(tensor).location for tensor in _external_tensors(read_graph(onnx_path).graph)}
    return [onnx_path, *(onnx_path.parent / name for name in sorted(outside))]


def _external_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The tensors kept in other files: initializers and constants, in branches and loops too."""
    yield from (tensor for tensor in graph.initializer if uses_external_data(tensor))
    for node in graph.node:
        for attribute in node.attribute:
            yield from (tensor for tensor in (attribute.t, *attribute.tensors) if uses_external_data(tensor))
            for inner in (attribute.g, *attribute.graphs):
                yield from _external_tensors(inner)


def _require_data(path: Path, tensor: ir.TensorProtocol) -> None:
    """Passes when a tensor kept in another file is all there, in the folder of its graph: none may read what it likes.

    Raises:
        ExportError: it leads outside the folder, is missing or too short, or has a second hard link.
    """
    assert isinstance(tensor, ir.ExternalTensor)
    folder = path.parent.resolve()
    given = f"{path} keeps '{tensor.name}' in '{tensor.location}'"
    file = (folder / tensor.location).resolve()
    if not file.is_relative_to(folder):
        raise ExportError(f"{given}, outside its folder {folder}: builders refuse that; copy the file beside it")
    if not file.is_file():
        raise ExportError(f"{given}, which is not in {folder}; copy the file there, or export again")
    size, needed = file.stat().st_size, (tensor.offset or 0) + ceil(tensor.nbytes)
    if size < needed:
        raise ExportError(f"{given}, which has {size} bytes of {needed}; copy the file again")
    if file.stat().st_nlink > 1:
        raise ExportError(f"{given}, which has several hard links, and ONNX refuses to read it; copy the file")
