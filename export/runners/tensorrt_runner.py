"""A TensorRT engine on its GPU: torch's CUDA memory, pinned buffers, one CUDA graph a shape."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from export.builders import load_builder
from export.engine_loading import list_profiles, require_runnable
from export.engine_spec import find_profile
from export.onnx_export import AXES
from export.runners.base import Arrays
from qat.errors import BuildError, DataError

_IDS = "input_ids"
_SHAPES_KEPT = 16
"""How many shapes keep their context and buffers; the one not used for longest goes first."""

_TYPES: Mapping[str, torch.dtype] = {
    "INT64": torch.int64,
    "INT32": torch.int32,
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
}


class TensorRtRunner:
    """Runs an engine that ``qdq build`` wrote; open it with ``with``.

    Several threads may call it, one at a time runs. The first batch of a shape runs as it is, the second is recorded
    as a CUDA graph, and every later one replays it.

    Args:
        path: the engine.
        precision: what tables call it.

    Raises:
        CheckpointError: no engine, or one that was changed after it was built.
        BuildError: its library is missing or of another version, there is no GPU, or the GPU is another.
    """

    def __init__(self, path: Path | str, *, precision: str = "engine") -> None:
        manifest = require_runnable(Path(path))
        trt = load_builder(manifest["builder"]["name"])
        self.name = str(manifest["builder"]["name"])
        self.precision = precision
        self._profiles = list_profiles(manifest)
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(Path(path).read_bytes())
        if self._engine is None:
            raise BuildError(f"{path} cannot be loaded by {self.name} {trt.__version__}: build it again with qdq build")
        names = [self._engine.get_tensor_name(place) for place in range(self._engine.num_io_tensors)]
        given = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs: Mapping[str, tuple[int | str, ...]] = {
            name: _name_axes(tuple(self._engine.get_tensor_shape(name))) for name in given
        }
        self._outputs = [name for name in names if name not in given]
        self._bound: OrderedDict[tuple[int, int], _BoundShape] = OrderedDict()
        self._turn = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bound.clear()

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """The engine's outputs by name, in FP32.

        Raises:
            BuildError: rows or tokens that no profile takes.
            DataError: inputs of any but two axes.
        """
        given = {name: feed[name] for name in self.inputs}
        shape = given[_IDS].shape
        if len(shape) != len(AXES):
            raise DataError(f"{_IDS} has {len(shape)} axes, but the engine takes {len(AXES)}: {' x '.join(AXES)}")
        with self._turn:
            return self._bind(int(shape[0]), int(shape[1])).run(given)

    def _bind(self, batch: int, sequence: int) -> "_BoundShape":
        shape = (batch, sequence)
        profile = find_profile(self._profiles, batch, sequence)
        if shape not in self._bound:
            while len(self._bound) >= _SHAPES_KEPT:
                self._bound.popitem(last=False)
            self._bound[shape] = _BoundShape(self._engine, profile, shape, (tuple(self.inputs), tuple(self._outputs)))
        self._bound.move_to_end(shape)
        return self._bound[shape]


def _name_axes(sizes: tuple[int, ...]) -> tuple[int | str, ...]:
    """An input's shape with the names of its dynamic axes.

    >>> _name_axes((-1, -1)), _name_axes((8, 128)), _name_axes((-1, 4, -1))
    (('batch', 'sequence'), (8, 128), ('batch', 4, 'sequence'))
    """
    names = (AXES[0], *["?"] * (len(sizes) - 2), AXES[-1])
    return tuple(name if size < 0 else size for name, size in zip(names, sizes, strict=True))


class _BoundShape:
    """A context for one shape with its buffers; recorded as a CUDA graph when it is run the second time.

    A graph must not outlive a change of its context, so every shape has a context of its own.
    """

    def __init__(
        self, engine: Any, profile: int, shape: tuple[int, int], names: tuple[tuple[str, ...], tuple[str, ...]]
    ) -> None:
        inputs, outputs = names
        self._stream = torch.cuda.Stream()
        self._context = engine.create_execution_context()
        self._context.set_optimization_profile_async(profile, self._stream.cuda_stream)
        for name in inputs:
            self._context.set_input_shape(name, shape)
        self._device: dict[str, torch.Tensor] = {}
        for name in (*inputs, *outputs):
            size = tuple(self._context.get_tensor_shape(name))
            kind = _TYPES[engine.get_tensor_dtype(name).name]
            self._device[name] = torch.zeros(size, dtype=kind, device="cuda")
            self._context.set_tensor_address(name, self._device[name].data_ptr())
        self._pinned = {name: torch.empty_like(x, device="cpu").pin_memory() for name, x in self._device.items()}
        self._inputs, self._outputs = inputs, outputs
        self._runs = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        torch.cuda.synchronize()

    def run(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """The outputs for one batch of this shape."""
        for name in self._inputs:
            self._pinned[name].copy_(torch.from_numpy(feed[name]))
        with torch.cuda.stream(self._stream):
            for name in self._inputs:
                self._device[name].copy_(self._pinned[name], non_blocking=True)
            self._execute()
            for name in self._outputs:
                self._pinned[name].copy_(self._device[name], non_blocking=True)
        self._stream.synchronize()
        return {name: self._pinned[name].float().numpy().copy() for name in self._outputs}

    def _execute(self) -> None:
        self._runs += 1
        if self._runs == 2:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._context.execute_async_v3(self._stream.cuda_stream)
        if self._graph is not None:
            self._graph.replay()
        elif not self._context.execute_async_v3(self._stream.cuda_stream):
            raise BuildError("TensorRT did not run the engine: build it again with qdq build on this machine")
