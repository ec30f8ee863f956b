"""OpenVINO's CPU plugin: signed activations, the rest in FP32, which the plugin runs in BF16 where the CPU has it.

Its low-precision transformations read QuantizeLinear and DequantizeLinear as they stand. Measured with OpenVINO 2026.4
on a six-layer BERT, one thread, 8x128 tokens: with signed activations every product is an INT8 kernel and scores,
softmax and context are one; shifted to UINT8 with zero point 128 the attention falls back to FP32 (15 % slower). One
packed projection instead of q, k and v loses their fused quantizers (6 % slower).
"""

from export.targets.base import Target, register_target
from export.targets.onnxruntime import shared_passes

OPENVINO = register_target(
    Target(
        name="openvino",
        passes={"fp32": shared_passes},
        weights={"fp32": ("per_channel", "per_tensor")},
        default_precision="fp32",
    )
)
