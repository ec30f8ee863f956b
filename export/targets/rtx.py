"""TensorRT for RTX: strongly typed, one Q/DQ for what is shared, FP16 for the rest.

Weights are per tensor in FP16: with one scale a channel this engine writes the GEMM's unscaled accumulators as FP16,
which overflow; in BF16 the same accumulators would keep 8 bits.
"""

from collections.abc import Sequence

import onnx_ir as ir

from export.passes.bound_mask import BoundMask
from export.passes.depthwise_convolution import DepthwiseConvolution
from export.passes.fold_weights import FoldWeights
from export.passes.grouped_matmul import GroupedMatMul
from export.passes.half_precision import HalfPrecision
from export.passes.pack_projections import PackProjections
from export.passes.pointwise_matmul import PointwiseMatMul
from export.passes.round_scales import RoundScales
from export.passes.scale_queries import ScaleQueries
from export.passes.span_convolution import SpanConvolution
from export.passes.tokens_first import TokensFirst
from export.targets.base import Target, register_target
from qat.spec import ScaleType


def _shared_passes(scale_type: ScaleType) -> Sequence[ir.passes.PassBase]:
    return (
        FoldWeights(),
        DepthwiseConvolution(),
        SpanConvolution(),
        PointwiseMatMul(),
        GroupedMatMul(),
        TokensFirst(),
        PackProjections(),
        ScaleQueries(scale_type),
        BoundMask(),
    )


RTX = register_target(
    Target(
        name="rtx",
        passes={
            "fp16": lambda: (*_shared_passes("float16"), HalfPrecision()),
            "bf16": lambda: (RoundScales(), *_shared_passes("float16"), HalfPrecision(ir.DataType.BFLOAT16)),
            "fp32": lambda: _shared_passes("float32"),
        },
        weights={"fp16": ("per_tensor",), "bf16": ("per_tensor",), "fp32": ("per_tensor", "per_channel")},
        default_precision="fp16",
    )
)
