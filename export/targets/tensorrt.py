"""TensorRT 10 and 11: strongly typed, one Q/DQ for what is shared, FP16 for the rest.

Its guide recommends per-channel weights; per-tensor ones are taken as well.
"""

from export.passes.bound_mask import BoundMask
from export.passes.fold_weights import FoldWeights
from export.passes.half_precision import HalfPrecision
from export.passes.pack_projections import PackProjections
from export.passes.scale_queries import ScaleQueries
from export.targets.base import Target, register_target

TENSORRT = register_target(
    Target(
        name="tensorrt",
        passes={
            "fp16": lambda: (FoldWeights(), PackProjections(), ScaleQueries("float16"), BoundMask(), HalfPrecision()),
            "fp32": lambda: (FoldWeights(), PackProjections(), ScaleQueries("float32"), BoundMask()),
        },
        weights={"fp16": ("per_channel", "per_tensor"), "fp32": ("per_channel", "per_tensor")},
        default_precision="fp16",
    )
)
