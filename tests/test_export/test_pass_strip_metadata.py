"""StripMetadata: nothing of the exporter's notes is left, and nothing else is lost."""

import onnx_ir as ir

from export.passes.strip_metadata import StripMetadata
from tests.test_export.tiny_models import Traced, make_batch, run_graph


def test_no_note_and_no_path_is_left_and_names_stay(bert: Traced) -> None:
    graph = bert.graph.clone()
    before = ir.to_proto(graph)
    assert any("stack_trace" in entry.key for node in before.graph.node for entry in node.metadata_props)
    assert StripMetadata()(graph).modified
    after = ir.to_proto(graph)
    assert [(node.name, node.op_type) for node in after.graph.node] == [
        (node.name, node.op_type) for node in before.graph.node
    ]
    assert b"metadata" not in after.SerializeToString()
    assert b"site-packages" not in after.SerializeToString()
    assert not any(node.metadata_props or node.doc_string for node in after.graph.node)
    assert [*after.metadata_props, *after.graph.metadata_props] == []
    assert (after.doc_string, after.graph.doc_string) == ("", "")
    assert after.ByteSize() < 0.7 * before.ByteSize()
    batch = make_batch(2, 9)
    assert (run_graph(graph, batch) == run_graph(bert.graph, batch)).all()


def test_a_second_time_there_is_nothing_to_drop(bert: Traced) -> None:
    graph = bert.graph.clone()
    StripMetadata()(graph)
    assert not StripMetadata()(graph).modified
