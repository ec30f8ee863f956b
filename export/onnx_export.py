"""From a calibrated model to a graph with QuantizeLinear and DequantizeLinear, by torch's dynamo exporter."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset20 as op
from torch import Tensor, nn
from transformers import PreTrainedModel

from export.passes.name_graph import NameGraph
from qat.chunking import whole_feed_forward
from qat.families import longest_row
from qat.layers import refresh_weight_ranges

OPSET = 20
Axes = tuple[int | str, ...]
AXES = ("batch", "sequence")
_LARGEST_BATCH = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphInput:
    """An input of a graph to be: its name, an example, and its axes, free ones by name."""

    name: str
    example: Tensor
    axes: Axes


def free_axes(longest: int) -> dict[str, Any]:
    """The axes that graphs leave free, with the sizes they can have, in a model of that many positions."""
    return {
        "batch": torch.export.Dim("batch", min=1, max=_LARGEST_BATCH),
        "sequence": torch.export.Dim("sequence", min=1, max=longest),
    }


class _NamedOutputs(nn.Module):
    """The model with positional inputs and its tensors as a tuple, the shape the exporter wants."""

    def __init__(self, model: PreTrainedModel, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = self.model(**dict(zip(self.inputs, tensors, strict=True)), return_dict=True)
        return tuple(found[name] for name in self.outputs)


def _translate_fake_quantize(x: Any, scale: Any, axis: int | None = None) -> Any:
    """The operator's ONNX form: a QuantizeLinear and a DequantizeLinear with INT8 zero points 0."""
    zero: Any = op.Cast(op.Mul(scale, 0.0), to=int(ir.DataType.INT8))
    channel = {} if axis is None else {"axis": axis}
    levels: Any = op.QuantizeLinear(x, scale, zero, **channel)
    return op.DequantizeLinear(levels, scale, zero, **channel)


def trace_graph(
    model: PreTrainedModel, *, inputs: Sequence[str], outputs: Sequence[str], axes: Axes = AXES
) -> ir.Model:
    """The graph of ``model`` in FP32 with axes ``batch`` and ``sequence`` free, its nodes named after its modules.

    Args:
        model: on the CPU, calibrated, or with its quantizers off for the float twin.
        inputs: the names of its integer inputs.
        outputs: the fields of its output to keep.
        axes: of each input, ``batch`` first and ``sequence`` last; a number between them (of choices) is fixed.
    """
    longest = longest_row(model.config)
    shape = example_shape(axes, longest)
    given = [GraphInput(name=name, example=_example_input(name, shape), axes=axes) for name in inputs]
    return trace_module(_NamedOutputs(model, inputs, outputs), model, given, outputs, free_axes(longest))


def example_shape(axes: Axes, longest: int) -> tuple[int, ...]:
    """The sizes that a graph with those axes is traced at."""
    sizes = {"batch": 2, "sequence": min(16, longest)}
    return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in axes)


def trace_module(
    module: nn.Module,
    model: PreTrainedModel,
    inputs: Sequence[GraphInput],
    outputs: Sequence[str],
    free: Mapping[str, Any],
) -> ir.Model:
    """The graph of ``module`` in FP32, its nodes named after the modules of ``model``.

    Args:
        module: holds the model as ``model``; takes the inputs one by one, in order, and gives the outputs as a tuple.
        model: on the CPU.
        inputs: of the graph.
        outputs: their names.
        free: by name, each axis that is no number.
    """
    refresh_weight_ranges(model)
    dims = tuple(
        {place: free[axis] for place, axis in enumerate(each.axes) if isinstance(axis, str)} for each in inputs
    )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), whole_feed_forward(model), _quiet_exporter():
            program = torch.export.export(
                module, tuple(each.example for each in inputs), dynamic_shapes=(dims,), strict=False
            )
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[each.name for each in inputs],
                output_names=list(outputs),
                custom_translation_table={torch.ops.qdq.fake_quantize.default: _translate_fake_quantize},
                verbose=False,
            )
    finally:
        model.train(was_training)
    assert exported is not None
    graph: ir.Model = exported.model
    graph.producer_name, graph.producer_version = "qdq", ""
    NameGraph({each.name: tuple(map(str, each.axes)) for each in inputs})(graph)
    return graph


def _example_input(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.ones(shape, dtype=torch.long) if name == "attention_mask" else torch.zeros(shape, dtype=torch.long)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keeps torch's own deprecation notes and its remark on a missing torchvision from the user."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        registration.setLevel(level)
