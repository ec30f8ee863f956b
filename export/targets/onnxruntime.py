"""ONNX Runtime's CPU provider: FP32 around integer kernels, unsigned activations."""

from collections.abc import Sequence

import onnx_ir as ir

from export.passes.bound_mask import BoundMask
from export.passes.constant_shapes import ConstantShapes
from export.passes.fold_weights import FoldWeights
from export.passes.grouped_matmul import GroupedMatMul
from export.passes.keep_read_tokens import KeepReadTokens
from export.passes.plain_sums import PlainSums
from export.passes.pointwise_matmul import PointwiseMatMul
from export.passes.span_convolution import SpanConvolution
from export.passes.split_groups import SplitGroups
from export.passes.tokens_first import TokensFirst
from export.passes.unsigned_activations import UnsignedActivations
from export.targets.base import Target, register_target


def shared_passes() -> Sequence[ir.passes.PassBase]:
    """What a runtime on a CPU wants of a graph, whichever it is."""
    return (
        FoldWeights(),
        SplitGroups(),
        SpanConvolution(),
        PointwiseMatMul(),
        GroupedMatMul(),
        TokensFirst(),
        BoundMask(),
        ConstantShapes(),
        KeepReadTokens(),
    )


ONNXRUNTIME = register_target(
    Target(
        name="onnxruntime",
        passes={"fp32": lambda: (*shared_passes(), PlainSums(), UnsignedActivations())},
        weights={"fp32": ("per_channel", "per_tensor")},
        default_precision="fp32",
        embedding_order="gather_first",
    )
)
