"""What goes into a graph and comes out of it, as a server has to be told."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import onnx

from export.graph_file import read_graph
from qat.errors import ExportError

_RENAMED = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16", "DOUBLE": "FP64"}
_IDS = "input_ids"
_BATCH = "batch"
_WEIGHT_READERS = ("DequantizeLinear", "Cast", "Identity")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output: its name, its type as Triton calls it (``TYPE_INT64``), its axes, dynamic ones by name."""

    name: str
    data_type: str
    axes: tuple[int | str, ...]

    def dims(self, *, batched: bool) -> list[int]:
        """The axes as a server's configuration has them: without the batch where it batches, -1 where any size goes.

        >>> Tensor("logits", "TYPE_FP32", ("batch", "sequence", 5)).dims(batched=True)
        [-1, 5]
        """
        return [axis if isinstance(axis, int) else -1 for axis in self.axes[1 if batched else 0 :]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """What a graph takes and gives.

    Attributes:
        inputs: in its order.
        outputs: in its order.
        vocabulary: how many tokens its embeddings know; None where the graph does not show it.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    vocabulary: int | None

    @property
    def batched(self) -> bool:
        """Whether the first axis of every input and output is a batch of any size, which is what Triton batches by."""
        return all(tensor.axes[:1] == (_BATCH,) for tensor in (*self.inputs, *self.outputs))

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """What ``dataclasses.asdict`` made of one, read back from JSON.

        Raises:
            KeyError, TypeError: it is something else.
        """
        inputs, outputs = (
            tuple(Tensor(each["name"], each["data_type"], tuple(each["axes"])) for each in facts[role])
            for role in ("inputs", "outputs")
        )
        return cls(inputs=inputs, outputs=outputs, vocabulary=facts["vocabulary"])

    def input_shape(self, tensor: Tensor, batch: int, sequence: int) -> tuple[int, ...]:
        """The shape of an input of so many rows and tokens.

        Raises:
            ExportError: an axis of another name.
        """
        sizes = {_BATCH: batch, "sequence": sequence}
        unknown = [axis for axis in tensor.axes if isinstance(axis, str) and axis not in sizes]
        if unknown:
            raise ExportError(
                f"input '{tensor.name}' has an axis '{unknown[0]}': expected batch, sequence or a number; "
                "give a folder that qdq export wrote"
            )
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in tensor.axes)


def read_interface(onnx_path: Path) -> Interface:
    """The inputs, outputs and vocabulary of an ONNX file.

    Raises:
        ExportError: no readable ONNX file.
    """
    graph = read_graph(onnx_path).graph
    weights = {tensor.name for tensor in graph.initializer}
    return Interface(
        inputs=tuple(_read_tensor(value) for value in graph.input if value.name not in weights),
        outputs=tuple(_read_tensor(value) for value in graph.output),
        vocabulary=max(_table_rows(graph), default=None),
    )


def _read_tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(kind.elem_type)
    axes = tuple(dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in kind.shape.dim)
    return Tensor(value.name, f"TYPE_{_RENAMED.get(name, name)}", axes)


def _table_rows(graph: onnx.GraphProto) -> Iterator[int]:
    """The rows of every table that the token ids pick from."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type != "Gather" or _follow(node.input[1], makers) != _IDS:
            continue
        shape = sizes.get(_follow(node.input[0], makers), ())
        if len(shape) == 2:
            yield shape[0]


def _follow(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    """Where a value comes from, before it was cast or dequantized."""
    while name in makers and makers[name].op_type in _WEIGHT_READERS:
        name = makers[name].input[0]
    return name
