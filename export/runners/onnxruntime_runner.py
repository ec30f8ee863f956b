"""An ONNX file in ONNX Runtime on the CPU."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    RuntimeException,
)
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as UnknownOperator

from export.decoder_graphs import PRESENT
from export.runners.base import AlwaysOpen, Arrays, require_shapes
from qat.errors import CheckpointError


class OnnxRuntimeRunner(AlwaysOpen):
    """Runs an ONNX file; open it with ``with``.

    Args:
        path: the file.
        precision: what tables call it.
        optimized: off runs the graph as it was exported, node by node, to judge the export and not the optimizer.
        threads: intra-operator threads, 0 for ONNX Runtime's own choice.
        kept: whether a decoder's graph answers the keys and values it keeps as well.
        providers: execution providers, the first that takes a node runs it.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        precision: str = "onnx",
        optimized: bool = True,
        threads: int = 0,
        kept: bool = False,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        self.name = "onnxruntime"
        self.precision = precision
        options = ort.SessionOptions()
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if not Path(path).is_file():
            raise CheckpointError(f"no ONNX file at {path}: give a file, or a folder that qdq export wrote")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=list(providers))
        except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, RuntimeException, UnknownOperator) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"ONNX Runtime cannot load {path}: {reason}; export it again") from error
        self.inputs: Mapping[str, tuple[int | str, ...]] = {
            value.name: tuple(value.shape) for value in self._session.get_inputs()
        }
        outputs = [value.name for value in self._session.get_outputs()]
        self._outputs = [name for name in outputs if kept or not name.startswith(PRESENT)]

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """The graph's outputs by name.

        Raises:
            DataError: sizes that a graph of fixed shape does not take.
        """
        require_shapes(self, feed)
        answers = self._session.run(self._outputs, {name: feed[name] for name in self.inputs})
        return dict(zip(self._outputs, answers, strict=True))
