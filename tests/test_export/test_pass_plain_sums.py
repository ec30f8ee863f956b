"""PlainSums: ONNX Runtime leaves the additions alone, and adds the same numbers."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from export.audit.onnxruntime_audit import audit_onnxruntime
from export.passes.plain_sums import PlainSums
from tests.test_export.tiny_models import run_feed

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[batch, tokens, 4] x, float[batch, tokens, 4] z) => (float[batch, tokens, 4] y)
<float[4, 4] w = {1,2,3,4, 5,6,7,8, 1,0,1,0, 2,2,2,2}, float[4] b = {1,2,3,4}, float[4] one = {1,1,1,1}>
{
    product = MatMul (x, w)
    biased = Add (product, b)
    active = Gelu (biased)
    whole = Add (active, z)
    normal = LayerNormalization <axis = -1> (whole, one, b)
    y = Add (normal, b)
}
"""


def fused(graph: ir.Model, folder: Path) -> set[str]:
    path = folder / "model.onnx"
    ir.save(graph, path)
    return set(audit_onnxruntime(path).operations) & {"SkipLayerNormalization", "BiasGelu"}


def test_what_onnxruntime_would_fuse_it_leaves_alone(tmp_path: Path) -> None:
    graph, before = ir.from_onnx_text(TEXT), ir.from_onnx_text(TEXT)
    assert fused(before, tmp_path) == {"SkipLayerNormalization", "BiasGelu"}
    assert PlainSums()(graph).modified
    assert fused(graph, tmp_path) == set()
    assert [node.op_type for node in graph.graph] == ["MatMul", "Sum", "Gelu", "Sum", "LayerNormalization", "Add"]
    assert not PlainSums()(graph).modified


def test_a_sum_adds_the_same_numbers() -> None:
    graph, before = ir.from_onnx_text(TEXT), ir.from_onnx_text(TEXT)
    PlainSums()(graph)
    rng = np.random.default_rng(0)
    feed = {name: rng.normal(size=(2, 3, 4)).astype(np.float32) for name in "xz"}
    assert np.array_equal(run_feed(graph, feed), run_feed(before, feed))
    onnx.checker.check_model(ir.to_proto(graph))
