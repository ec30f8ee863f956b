"""An ONNX file in ONNX Runtime, on the CPU or on another of its execution providers."""

from collections.abc import Mapping
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
from export.runners.base import AlwaysOpen, Arrays, refuse_run, require_shapes
from qat.errors import BuildError, CheckpointError, suggest

_REFUSALS = (
    *(Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, RuntimeException, UnknownOperator),
    UnicodeDecodeError,  # a message with a name in it that is no text
)
_SUFFIX = "ExecutionProvider"
_CPU = "CPUExecutionProvider"
_PACKAGES = {"NvTensorRTRTX": "onnxruntime-gpu", "Tensorrt": "onnxruntime-gpu", "CUDA": "onnxruntime-gpu"}


def list_providers(name: str | None) -> list[str]:
    """What a session asks for to run on a provider: it, and the CPU's for what it does not run.

    Raises:
        BuildError: this ONNX Runtime does not have it.

    >>> list_providers("cpu")
    ['CPUExecutionProvider']
    """
    there = {each.removesuffix(_SUFFIX).lower(): each for each in ort.get_available_providers()}
    known = {each.removesuffix(_SUFFIX).lower(): each for each in ort.get_all_providers()}
    asked = _CPU if name is None else name
    short = asked.lower().removesuffix(_SUFFIX.lower())
    if short not in known:
        names = [each.removesuffix(_SUFFIX) for each in known.values()]
        raise BuildError(f"ONNX Runtime knows no provider '{name}': {suggest(asked.removesuffix(_SUFFIX), names)}")
    if short not in there:
        missing = known[short].removesuffix(_SUFFIX)
        package = _PACKAGES.get(missing)
        gpu = f"install {package} (the extra qdq[gpu]) in place of onnxruntime"
        mend = gpu if package else "install a build of it that does"
        has = ", ".join(each.removesuffix(_SUFFIX) for each in there.values())
        raise BuildError(
            f"this ONNX Runtime ({ort.__version__}) does not have the provider '{missing}', it has {has}: {mend}"
        )
    return list(dict.fromkeys([there[short], _CPU]))


class OnnxRuntimeRunner(AlwaysOpen):
    """Runs an ONNX file; open it with ``with``.

    Args:
        path: the file.
        precision: what tables call it.
        optimized: off runs the graph as it was exported, node by node, to judge the export and not the optimizer.
        threads: intra-operator threads, 0 for ONNX Runtime's own choice. Batches of several threads run side by side;
            with one each they share nothing but the weights.
        kept: whether a decoder's graph answers the keys and values it keeps as well.
        provider: its execution provider, as ``CUDA`` or ``CUDAExecutionProvider``; None for the CPU's. What a provider
            does not run, the CPU does.

    Raises:
        CheckpointError: no such file, or one that ONNX Runtime cannot run.
        BuildError: a provider that this ONNX Runtime does not have.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        precision: str = "onnx",
        optimized: bool = True,
        threads: int = 0,
        kept: bool = False,
        provider: str | None = None,
    ) -> None:
        providers = list_providers(provider)
        self.name = "onnxruntime"
        self.precision = precision
        self._path = Path(path)
        options = ort.SessionOptions()
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if not Path(path).is_file():
            raise CheckpointError(f"no ONNX file at {path}: give a file, or a folder that qdq export wrote")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=providers)
        except _REFUSALS as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"ONNX Runtime cannot load {path}: {reason}; export it again") from error
        if self._session.get_providers()[0] != providers[0]:
            raise BuildError(
                f"the provider '{provider}' could not start on this machine (its libraries or its device are missing), "
                f"and ONNX Runtime would run on {self._session.get_providers()[0]}: leave --provider out for that"
            )
        self.inputs: Mapping[str, tuple[int | str, ...]] = {
            value.name: tuple(value.shape) for value in self._session.get_inputs()
        }
        outputs = [value.name for value in self._session.get_outputs()]
        self._outputs = [name for name in outputs if kept or not name.startswith(PRESENT)]

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """The graph's outputs by name.

        Raises:
            DataError: sizes that a graph of fixed shape does not take.
            CheckpointError: a graph that cannot be run after all.
        """
        require_shapes(self, feed)
        try:
            answers = self._session.run(self._outputs, {name: feed[name] for name in self.inputs})
        except _REFUSALS as error:
            raise refuse_run("ONNX Runtime", self._path, feed, str(error).splitlines()[0]) from error
        return dict(zip(self._outputs, answers, strict=True))
