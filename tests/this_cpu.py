"""What the CPU that the tests run on can, read as they are collected: later a fixture shows them another one."""

from qat.cpu import read_int8_flags, saturates_int8
from qat.spec import Bits

EXACT_BITS: Bits = 7 if saturates_int8() else 8
"""The bits of a weight with which every runtime's sums over weights are exact here, as ``qdq calibrate`` says."""

EXACT_RUNTIMES = ("onnxruntime",) if saturates_int8() else ("onnxruntime", "openvino")
"""Those whose sums in an attention are exact as well: no operand of these leaves a bit free."""

HAS_AVX512 = "avx512f" in (read_int8_flags() or ())
"""Whether OpenVINO has its kernels for an INT8 attention and for BF16 here."""
