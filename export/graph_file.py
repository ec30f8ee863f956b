"""An ONNX file is read, or refused with one line."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

from qat.errors import ExportError


def read_graph(onnx_path: Path, *, weights: bool = False) -> onnx.ModelProto:
    """The model of a file, with its external weights or without.

    Raises:
        ExportError: no readable ONNX file.
    """
    if not Path(onnx_path).is_file():
        raise ExportError(f"{onnx_path} is no ONNX file; give the model.onnx of an exported folder")
    try:
        model = onnx.load(onnx_path, load_external_data=weights)
    except (DecodeError, OSError, onnx.checker.ValidationError) as error:
        said = " ".join(str(error).split())
        raise ExportError(f"{onnx_path} cannot be read as ONNX ({said}); export it again") from error
    if not model.graph.node:
        raise ExportError(f"{onnx_path} holds no ONNX graph; export it again")
    return model
