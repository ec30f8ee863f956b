"""FP16 for everything that is not INT8: initializers, scales, casts and intermediate values."""

import numpy as np
import onnx_ir as ir

from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE, constant, nodes_of, operand

FP16_MAX = 65504.0


class HalfPrecision(ir.passes.InPlacePass):
    """Turns a graph of FP32 into one of FP16 that keeps its FP32 outputs.

    Rules: (1) FP32 initializers and constants become FP16, scales exactly (they are FP16 values already);
    (2) casts to FP32 cast to FP16; (3) LayerNormalization keeps its statistics in FP32 (``stash_type`` 1), so squares
    cannot overflow; (4) the graph's outputs are cast back to FP32 at the very end.
    """

    def requires(self, model: ir.Model) -> None:
        """Every FP32 constant is finite and fits FP16, every scale is an FP16 value."""
        for value in model.graph.initializers.values():
            array = constant(value)
            if array is None or array.dtype != np.float32 or not array.size:
                continue
            largest = float(np.abs(array).max())
            if not largest <= FP16_MAX:  # NaN as well
                raise ir.passes.PreconditionError(
                    f"'{value.name}' holds {largest:.4g}, beyond FP16's {FP16_MAX:.0f}: export with --precision fp32"
                )
        for node in nodes_of(model, QUANTIZE, DEQUANTIZE):
            scale = constant(operand(node, 1))
            if scale is not None and not np.array_equal(scale, scale.astype(np.float16)):
                raise ir.passes.PreconditionError(
                    f"the scale of '{node.name}' is no FP16 value and would change: export with --precision fp32, "
                    "or calibrate again"
                )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model in FP16."""
        before = [value.dtype for value in _values(model)]
        for value in list(model.graph.initializers.values()):
            array = constant(value)
            if array is not None and array.dtype == np.float32:
                value.const_value = ir.tensor(array.astype(np.float16), name=value.name)
                value.type = ir.TensorType(ir.DataType.FLOAT16)
        for node in model.graph:
            _convert_attributes(node)
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT:
                    output.type = ir.TensorType(ir.DataType.FLOAT16)
        modified = before != [value.dtype for value in _values(model)]
        _restore_outputs(model)
        return ir.passes.PassResult(model, modified=modified)

    def ensures(self, model: ir.Model) -> None:
        """LayerNormalization computes its statistics in FP32."""
        for node in nodes_of(model, "LayerNormalization"):
            if node.attributes.get_int("stash_type", 1) != int(ir.DataType.FLOAT):
                raise ir.passes.PostconditionError(f"'{node.name}' would square in FP16")


def _values(model: ir.Model) -> list[ir.Value]:
    return [*model.graph.initializers.values(), *(output for node in model.graph for output in node.outputs)]


def _convert_attributes(node: ir.Node) -> None:
    if node.op_type == "Cast" and node.attributes["to"].as_int() == int(ir.DataType.FLOAT):
        node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == ir.DataType.FLOAT:
            half = ir.tensor(attribute.as_tensor().numpy().astype(np.float16))
            node.attributes[name] = ir.AttrTensor(name, half)


def _restore_outputs(model: ir.Model) -> None:
    for index, output in enumerate(list(model.graph.outputs)):
        if output.dtype != ir.DataType.FLOAT16:
            continue
        name, output.name = output.name, f"{output.name}_fp16"
        cast = ir.node("Cast", [output], {"to": int(ir.DataType.FLOAT)}, name=f"{name}/Cast")
        cast.outputs[0].name, cast.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
        cast.outputs[0].shape = output.shape
        model.graph.append(cast)
        model.graph.outputs[index] = cast.outputs[0]
