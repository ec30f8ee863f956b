"""An ONNX file, or one of OpenVINO's own, in OpenVINO on the CPU."""

from collections.abc import Mapping
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.decoder_graphs import PRESENT
from export.graph_file import read_graph
from export.openvino_model import Rest, compile_graph, explain_refusal, read_rest
from export.runners.base import AlwaysOpen, Arrays, refuse_run, require_shapes
from qat.errors import CheckpointError


class OpenVinoRunner(AlwaysOpen):
    """Runs an ONNX file, or one of OpenVINO's own; open it with ``with``.

    Several threads may call it; as many of their batches run at once as it has streams.

    Args:
        path: the file.
        quantized: whether tables call it INT8.
        rest: what is not INT8 runs in this; None for OpenVINO's choice, BF16 where the CPU has it.
        threads: 0 for OpenVINO's own choice.
        streams: batches at once; several are tuned for throughput.
        kept: whether a decoder's graph answers the keys and values it keeps as well.

    Raises:
        CheckpointError: no such file, or one that OpenVINO cannot run.
        BuildError: OpenVINO is not installed.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        quantized: bool = True,
        rest: Rest | None = None,
        threads: int = 0,
        streams: int = 1,
        kept: bool = False,
    ) -> None:
        if not Path(path).is_file():
            raise CheckpointError(f"no ONNX file at {path}: give a file, or a folder that qdq export wrote")
        try:
            compiled = compile_graph(str(path), rest=rest, threads=threads, streams=streams)
        except RuntimeError as error:
            said = explain_refusal(error)
            raise CheckpointError(f"OpenVINO cannot load {path}: {said}; export it again") from error
        self.name = "openvino"
        self._path = Path(path)
        floats = {"f32": "fp32", "f16": "fp16"}.get(read_rest(compiled), read_rest(compiled))
        self.precision = f"int8+{floats}" if quantized else floats
        self.inputs: Mapping[str, tuple[int | str, ...]] = _read_shapes(Path(path), compiled)
        outputs = [port.get_any_name() for port in compiled.outputs]
        self._outputs = [name for name in outputs if kept or not name.startswith(PRESENT)]
        self._idle: Queue[Any] = Queue()
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """The graph's outputs by name.

        Raises:
            DataError: sizes that a graph of fixed shape does not take.
            CheckpointError: a graph that cannot be run after all.
        """
        require_shapes(self, feed)
        request = self._idle.get()
        try:
            answers = request.infer({name: feed[name] for name in self.inputs}, share_inputs=True)
            return {name: np.array(answers[name]) for name in self._outputs}
        except RuntimeError as error:
            raise refuse_run("OpenVINO", self._path, feed, explain_refusal(error)) from error
        finally:
            self._idle.put(request)


def _read_shapes(path: Path, compiled: Any) -> dict[str, tuple[int | str, ...]]:
    """The inputs' shapes; OpenVINO forgets the names of dynamic axes, an ONNX file has them."""
    if path.suffix == ".onnx":
        return {
            value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in read_graph(path).graph.input
        }
    return {
        port.get_any_name(): tuple(dim.get_length() if dim.is_static else "?" for dim in port.get_partial_shape())
        for port in compiled.inputs
    }
