"""What the exporter noted for whoever debugs it goes: stack traces of every node are 2 % of a small model's file."""

import onnx_ir as ir


class StripMetadata(ir.passes.InPlacePass):
    """Drops the exporter's notes.

    Rules: (1) metadata and documentation of the model, its graph, nodes and values go, which keeps the paths of the
    machine that exported it out of the file as well; (2) names stay: a node's name already holds its module's path.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """The model without notes."""
        modified = False
        for holder in _holders(model):
            modified |= bool(holder.metadata_props or holder.doc_string)
            holder.metadata_props.clear()
            holder.doc_string = None
        return ir.passes.PassResult(model, modified=modified)


def _holders(model: ir.Model) -> list[ir.Model | ir.Graph | ir.Node | ir.Value]:
    graph = model.graph
    outputs = [output for node in graph for output in node.outputs]
    return [model, graph, *graph, *graph.inputs, *graph.initializers.values(), *outputs]
