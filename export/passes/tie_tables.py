"""A table and its transpose are stored once: the decoder of a masked-language model reads the word embeddings."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from export.passes.qdq_nodes import constant, remove_dead


class TieTables(ir.passes.InPlacePass):
    """Lets a product read an embedding table by a Transpose.

    The exporter folds the transposition of a tied decoder into a second copy of the largest tensor there is. Rules: (1)
    a matrix that only MatMul reads, as its second factor, and that is a table's transpose in every bit, is replaced by
    a Transpose of the table, which engines fold into the product; (2) a table is what ``Gather`` reads.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model with every such table once."""
        found = list(_find_copies(model))
        for table, copy in found:
            first = next(node for node in model.graph if copy in node.inputs)
            turn = ir.node(
                "Transpose", [table], {"perm": [1, 0]}, name=f"{str(first.name).rpartition('/')[0]}/Transpose"
            )
            value = turn.outputs[0]
            value.name, value.shape, value.type = f"{turn.name}_output", copy.shape, copy.type
            model.graph.insert_before(first, turn)
            ir.convenience.replace_all_uses_with(copy, value)
        if found:
            remove_dead(model)
        return ir.passes.PassResult(model, modified=bool(found))

    def ensures(self, model: ir.Model) -> None:
        """No table is there twice."""
        left = [copy.name for _, copy in _find_copies(model)]
        if left:
            raise ir.passes.PostconditionError(f"transposed copies of a table are left: {left[:3]}")


def _find_copies(model: ir.Model) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Each table with its transposed copy."""
    matrices = [
        value for value in model.graph.initializers.values() if value.shape is not None and value.shape.rank() == 2
    ]
    tables = [value for value in matrices if any(use.node.op_type == "Gather" and use.idx == 0 for use in value.uses())]
    for copy in matrices:
        if not copy.uses() or any(use.node.op_type != "MatMul" or use.idx != 1 for use in copy.uses()):
            continue
        for table in tables:
            if _is_transpose(table, copy):
                yield table, copy
                break


def _is_transpose(table: ir.Value, copy: ir.Value) -> bool:
    if table.shape is None or copy.shape is None or table.shape.numpy() != copy.shape.numpy()[::-1]:
        return False
    first, second = constant(table), constant(copy)
    return first is not None and second is not None and np.array_equal(first.T, second)
