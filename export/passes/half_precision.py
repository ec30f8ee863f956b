"""FP16 or BF16 for everything that is not INT8: initializers, scales, casts and intermediate values."""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from export.passes.attention_region import list_int8_attention
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, constant, nodes_of, operand

FP16_MAX = 65504.0
_NAMES = {ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16", ir.DataType.FLOAT: "fp32"}
_LARGEST = {ir.DataType.FLOAT16: FP16_MAX, ir.DataType.BFLOAT16: float(np.finfo(np.float32).max)}


class HalfPrecision(ir.passes.InPlacePass):
    """Turns a graph of FP32 into one of a 16-bit type that keeps its FP32 inputs and outputs.

    Rules: (1) FP32 initializers and constants become 16-bit, scales exactly; (2) casts to FP32 cast to the 16-bit type;
    (3) LayerNormalization keeps its statistics in FP32 (``stash_type`` 1), so squares cannot overflow; (4) the graph's
    FP32 inputs are cast where they come in, its outputs back to FP32 at the very end; (5) nodes named in ``keep``
    compute in FP32, between casts; (6) in BF16, attention whose products are all INT8 computes in FP16 between its INT8
    edges, which take it there without a cast: TensorRT for RTX 1.7 fuses no INT8 attention in BF16 (83 kernels instead
    of 60 for six layers), and what has been dequantized cannot overflow.

    Args:
        dtype: FLOAT16 or BFLOAT16.
        keep: the names of nodes whose values the 16-bit type could not hold.
    """

    def __init__(self, dtype: ir.DataType = ir.DataType.FLOAT16, *, keep: Iterable[str] = ()) -> None:
        super().__init__()
        self.dtype = dtype
        self.keep = frozenset(keep)

    def requires(self, model: ir.Model) -> None:
        """Every FP32 constant is finite and fits the 16-bit type, every scale is a value of its node's type."""
        for value in model.graph.initializers.values():
            array = constant(value)
            if array is None or array.dtype != np.float32 or not array.size:
                continue
            largest = float(np.abs(array).max())
            if not largest <= _LARGEST[self.dtype]:  # NaN as well
                name = _NAMES[self.dtype].upper()
                raise ir.passes.PreconditionError(
                    f"'{value.name}' holds {largest:.4g}, beyond {name}'s {_LARGEST[self.dtype]:.5g}: "
                    "export with --precision fp32"
                )
        for node, dtype in self._choose_types(model).items():
            scale = constant(operand(node, 1)) if node.op_type in (QUANTIZE, DEQUANTIZE) else None
            if scale is not None and not np.array_equal(scale, scale.astype(dtype.numpy()).astype(np.float32)):
                raise ir.passes.PreconditionError(
                    f"the scale of '{node.name}' is no {_NAMES[dtype].upper()} value and would change: "
                    "export with --precision fp32, or calibrate again"
                )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model in 16 bits."""
        before = [value.dtype for value in _values(model)]
        types = self._choose_types(model)
        for value in list(model.graph.initializers.values()):
            array = constant(value)
            if array is not None and array.dtype == np.float32:
                _convert_initializer(model, value, types, self.dtype)
        for node, dtype in types.items():
            _convert_attributes(node, dtype)
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT:
                    output.type = ir.TensorType(dtype)
        modified = before != [value.dtype for value in _values(model)]
        _cast_between(model, types)
        _restore_outputs(model)
        return ir.passes.PassResult(model, modified=modified)

    def ensures(self, model: ir.Model) -> None:
        """LayerNormalization computes its statistics in FP32."""
        for node in nodes_of(model, "LayerNormalization"):
            if node.attributes.get_int("stash_type", 1) != int(ir.DataType.FLOAT):
                raise ir.passes.PostconditionError(f"'{node.name}' would square in {_NAMES[self.dtype].upper()}")

    def _choose_types(self, model: ir.Model) -> dict[ir.Node, ir.DataType]:
        """The float type that each node computes in, in the graph's order."""
        exact = list_int8_attention(model) if self.dtype == ir.DataType.BFLOAT16 else frozenset()
        types = {node: ir.DataType.FLOAT16 if node in exact else self.dtype for node in model.graph}
        return types | {node: ir.DataType.FLOAT for node in model.graph if node.name in self.keep}


def _values(model: ir.Model) -> list[ir.Value]:
    return [*model.graph.initializers.values(), *(output for node in model.graph for output in node.outputs)]


def _convert_initializer(
    model: ir.Model, value: ir.Value, types: Mapping[ir.Node, ir.DataType], default: ir.DataType
) -> None:
    """The initializer in the type of its readers; where they differ, one for each."""
    array = constant(value)
    assert array is not None
    readers = list(value.uses())
    first = types[readers[0].node] if readers else default
    for dtype in dict.fromkeys(types[node] for node, _ in readers):
        if dtype == first:
            continue
        name = f"{value.name}_{_NAMES[dtype]}"
        tensor = ir.tensor(array.astype(dtype.numpy()), name=name)
        other = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype), const_value=tensor)
        model.graph.register_initializer(other)
        for node, index in readers:
            if types[node] == dtype:
                node.replace_input_with(index, other)
    value.const_value = ir.tensor(array.astype(first.numpy()), name=value.name)
    value.type = ir.TensorType(first)


def _convert_attributes(node: ir.Node, dtype: ir.DataType) -> None:
    if node.op_type == "Cast" and node.attributes["to"].as_int() == int(ir.DataType.FLOAT):
        node.attributes["to"] = ir.AttrInt64("to", int(dtype))
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == ir.DataType.FLOAT:
            half = ir.tensor(attribute.as_tensor().numpy().astype(dtype.numpy()))
            node.attributes[name] = ir.AttrTensor(name, half)


def _cast_between(model: ir.Model, types: Mapping[ir.Node, ir.DataType]) -> None:
    """One cast for each value and type that another node wants it in."""
    casts: dict[tuple[ir.Value, ir.DataType], ir.Node] = {}
    for node, dtype in types.items():
        for index, value in enumerate(node.inputs):
            if value is None or node.op_type == "Cast" or value.dtype not in _NAMES or value.dtype == dtype:
                continue
            made = value.producer()
            if made is None and not value.is_graph_input():
                continue
            if (value, dtype) not in casts:
                origin = value.name if made is None else made.name
                casts[value, dtype] = _cast(value, dtype, f"{origin}/Cast_{_NAMES[dtype]}")
                if made is None:
                    model.graph.insert_before(model.graph[0], casts[value, dtype])
                else:
                    model.graph.insert_after(made, casts[value, dtype])
            node.replace_input_with(index, casts[value, dtype].outputs[0])


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": int(dtype)}, name=name)
    cast.outputs[0].name, cast.outputs[0].type = f"{name}_output", ir.TensorType(dtype)
    cast.outputs[0].shape = value.shape
    return cast


def _restore_outputs(model: ir.Model) -> None:
    for index, output in enumerate(list(model.graph.outputs)):
        if output.dtype not in _LARGEST:
            continue
        name, output.name = output.name, f"{output.name}_{_NAMES[output.dtype]}"
        cast = _cast(output, ir.DataType.FLOAT, f"{name}/Cast")
        cast.outputs[0].name = name
        model.graph.append(cast)
        model.graph.outputs[index] = cast.outputs[0]
