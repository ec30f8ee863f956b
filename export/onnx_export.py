"""From a calibrated model to a graph with QuantizeLinear and DequantizeLinear, by torch's dynamo exporter."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    refresh_weight_ranges(model)
    longest = longest_row(model.config)
    sizes = {"batch": 2, "sequence": min(16, longest)}
    shape = tuple(axis if isinstance(axis, int) else sizes[axis] for axis in axes)
    example = tuple(_example_input(name, shape) for name in inputs)
    free = {
        "batch": torch.export.Dim("batch", min=1, max=_LARGEST_BATCH),
        "sequence": torch.export.Dim("sequence", min=1, max=longest),
    }
    dims = {place: free[axis] for place, axis in enumerate(axes) if isinstance(axis, str)}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), whole_feed_forward(model), _quiet_exporter():
            program = torch.export.export(
                _NamedOutputs(model, inputs, outputs),
                example,
                dynamic_shapes=(tuple(dims for _ in inputs),),
                strict=False,
            )
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                custom_translation_table={torch.ops.qdq.fake_quantize.default: _translate_fake_quantize},
                verbose=False,
            )
    finally:
        model.train(was_training)
    assert exported is not None
    graph: ir.Model = exported.model
    graph.producer_name, graph.producer_version = "qdq", ""
    NameGraph(dict.fromkeys(inputs, tuple(map(str, axes))))(graph)
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
