"""TensorRT for RTX: strongly typed, one Q/DQ for what is shared, FP16 for the rest.

Weights are per tensor in FP16: with one scale a channel this engine writes the GEMM's unscaled accumulators as FP16,
which overflow.
"""

from export.passes.bound_mask import BoundMask
from export.passes.fold_weights import FoldWeights
from export.passes.half_precision import HalfPrecision
from export.passes.pack_projections import PackProjections
from export.passes.scale_queries import ScaleQueries
from export.targets.base import Target, register_target

RTX = register_target(
    Target(
        name="rtx",
        passes={
            "fp16": lambda: (FoldWeights(), PackProjections(), ScaleQueries("float16"), BoundMask(), HalfPrecision()),
            "fp32": lambda: (FoldWeights(), PackProjections(), ScaleQueries("float32"), BoundMask()),
        },
        weights={"fp16": ("per_tensor",), "fp32": ("per_tensor", "per_channel")},
        default_precision="fp16",
    )
)
