"""Tensor-by-tensor agreement of a quantized model and its exported graph, in INT8 steps, each fed the same inputs.

The graph runs once, unoptimized, and gives the levels of every QuantizeLinear. The torch model then runs once, and
every quantizer hands on the graph's numbers instead of its own: so each stretch between two quantizers is judged alone,
and one flipped tie does not spread.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from export.onnx_export import AXES
from export.runners.base import Arrays, Runner
from export.runners.torch_runner import TorchRunner
from qat.errors import ExportError
from qat.quantizer import FakeQuantizer, named_quantizers
from qat.spec import INT8_MAX, INT8_MIN

_TOKENS = AXES[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorAgreement:
    """One quantized tensor, in torch and in the graph.

    Attributes:
        name: the quantizer's path; of a shared layer with the depth.
        values: how many numbers were compared, padding included; where the graph computes the first token only, its.
        differing: how many have another INT8 level.
        largest_step: by how many levels at most.
        tie_distance: of those that differ, the largest distance to a rounding tie, relative to the range (127 steps).
    """

    name: str
    values: int
    differing: int
    largest_step: int
    tie_distance: float


def compare_layers(
    model: PreTrainedModel, onnx_path: Path | str, batch: Mapping[str, NDArray[np.int64]]
) -> tuple[TensorAgreement, ...]:
    """The agreement at every activation quantizer that the graph holds under its own name, in running order.

    Args:
        model: the calibrated model the graph was exported from.
        onnx_path: the graph; its numbers are only comparable to the last step in FP32.
        batch: the model's inputs.

    Raises:
        ExportError: the graph holds none of the model's quantizers.
    """
    torch_runner = TorchRunner(model, inputs=tuple(batch), outputs=())
    return FollowedGraph(onnx_path, model, torch_runner).run(batch).agreements


@dataclass(frozen=True, slots=True)
class Followed:
    """What one run of a graph and of its model on the graph's levels gave.

    Attributes:
        graph: the graph's outputs by name.
        torch: the model's, its own up to ties only where every agreement says so.
        agreements: of every activation quantizer the graph holds under its own name, in running order.
    """

    graph: Arrays
    torch: Arrays
    agreements: tuple[TensorAgreement, ...]


class FollowedGraph:
    """An exported graph, run unoptimized, whose levels its model takes over.

    Args:
        onnx_path: the graph.
        model: the calibrated model it was exported from; it is put into evaluation mode.
        torch_runner: runs the model as the graph does.
    """

    def __init__(self, onnx_path: Path | str, model: PreTrainedModel, torch_runner: Runner) -> None:
        self._path, self._model, self._torch = Path(onnx_path), model.eval(), torch_runner
        proto = onnx.load(self._path)
        self._answers = [value.name for value in proto.graph.output]
        self._axes = {value.name: _token_axis(value) for value in proto.graph.value_info}
        self._levels, self._offsets = _answer_levels(proto)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        self._session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, feed: Mapping[str, NDArray[np.generic]]) -> Followed:
        """What the graph and the model answer to ``feed``.

        Raises:
            ExportError: the graph holds none of the model's quantizers.
        """
        names = [*self._answers, *self._levels.values()]
        given = {value.name: feed[value.name] for value in self._session.get_inputs()}
        found = dict(zip(names, self._session.run(names, given), strict=True))
        levels = {
            name: _Levels(found[output].astype(np.int16) - self._offsets[name], self._axes.get(output))
            for name, output in self._levels.items()
        }
        agreements: list[TensorAgreement] = []
        with _forcing(self._model, levels, agreements):
            answers = self._torch.infer(feed)
        if not agreements:
            raise ExportError(f"{self._path} holds none of the model's quantizers: compare a model with its own export")
        return Followed({name: found[name] for name in self._answers}, answers, tuple(agreements))


@dataclass(frozen=True, slots=True)
class _Levels:
    """The INT8 levels of one QuantizeLinear, and where its tokens lie, where the graph says so."""

    values: NDArray[np.int16]
    token_axis: int | None

    def like(self, token_axis: int) -> Tensor:
        """The levels with their tokens where the model has them: a lowering may have moved them before the channels."""
        values = torch.from_numpy(self.values)
        return values if self.token_axis is None else values.movedim(self.token_axis, token_axis)


def _answer_levels(proto: onnx.ModelProto) -> tuple[dict[str, str], dict[str, int]]:
    """Makes every QuantizeLinear's output one of the graph's: by node that output's name, and its zero point."""
    zero_points = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    outputs: dict[str, str] = {}
    offsets: dict[str, int] = {}
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = zero_points[node.input[2]]
            outputs[node.name], offsets[node.name] = node.output[0], int(zero.flat[0])
            kind = onnx.helper.np_dtype_to_tensor_dtype(zero.dtype)
            proto.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], kind, None))
    return outputs, offsets


def _token_axis(value: onnx.ValueInfoProto) -> int | None:
    """The first axis of the length of a sequence, or the one cut to a single token; of probabilities, the query's."""
    sizes = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if len(sizes) == 4 and sizes[2:] == [1, _TOKENS]:
        return 2
    return next((sizes.index(size) for size in (_TOKENS, 1) if size in sizes), None)


@contextmanager
def _forcing(model: PreTrainedModel, levels: Mapping[str, _Levels], found: list[TensorAgreement]) -> Iterator[None]:
    def compare_and_replace(quantizer: FakeQuantizer, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        suffix = f"_{quantizer.depth}" if quantizer.depth else ""
        expected = levels.get(f"{quantizer.name}/QuantizeLinear{suffix}")
        if expected is None:
            return output
        graph = expected.like(quantizer.spec.token_axis)
        steps = arguments[0].float() / quantizer.scale()
        if graph.shape == steps.shape:
            found.append(_compare(quantizer, steps, graph))
            return (graph * quantizer.scale()).to(output.dtype)
        first = steps.narrow(quantizer.spec.token_axis, 0, 1)
        found.append(_compare(quantizer, first, graph))
        return output.slice_scatter((graph * quantizer.scale()).to(output.dtype), quantizer.spec.token_axis, 0, 1)

    handles = [
        quantizer.register_forward_hook(compare_and_replace)
        for _, quantizer in named_quantizers(model)
        if quantizer.spec.range_source != "weight"
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _compare(quantizer: FakeQuantizer, steps: Tensor, graph: Tensor) -> TensorAgreement:
    ours = steps.round().clamp(INT8_MIN, INT8_MAX)
    apart = (ours - graph).abs()
    off = apart > 0
    distance = ((steps - steps.floor()) - 0.5).abs()[off]
    depth = f" (depth {quantizer.depth})" if len(quantizer.amax) > 1 else ""
    return TensorAgreement(
        name=quantizer.name + depth,
        values=steps.numel(),
        differing=int(off.sum()),
        largest_step=int(apart.max()),
        tie_distance=float(distance.max()) / INT8_MAX if bool(off.any()) else 0.0,
    )
