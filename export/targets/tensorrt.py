"""TensorRT 10 and 11: strongly typed, lowered by the same passes as TensorRT for RTX.

Its guide recommends per-channel weights; per-tensor ones are taken as well.
"""

from export.targets.base import Target, register_target
from export.targets.rtx import RTX

TENSORRT = register_target(
    Target(
        name="tensorrt",
        passes=RTX.passes,
        weights=dict.fromkeys(RTX.passes, ("per_channel", "per_tensor")),
        default_precision="fp16",
    )
)
