"""How one tensor is quantized: frozen values that are compared, hashed and stored, never changed."""

from dataclasses import dataclass
from typing import Literal

ScaleType = Literal["float16", "float32"]
RangeSource = Literal["calibrated", "weight", "constant", "stored"]
Bits = Literal[7, 8]
Tokens = Literal["own", "encoder"]
"""Whose tokens an activation has: the model's, or those of the states it attends to."""

INT8_MIN, INT8_MAX = -128, 127
SMALLEST_SCALE = 2.0**-14
"""The floor of every scale: the smallest normal FP16 number, so that no engine meets a subnormal or zero scale."""

LARGEST_SCALE = 65504.0
"""The ceiling of an FP16 scale: the largest finite FP16 number."""


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One range for the whole tensor."""


@dataclass(frozen=True, slots=True)
class PerChannel:
    """One range for each index of ``axis``: of a Linear's weight ``(out, in)``, axis 0 is the output channel."""

    axis: int = 0


Granularity = PerTensor | PerChannel


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantSpec:
    """INT8, symmetric, zero point 0; what varies between tensors.

    Attributes:
        granularity: one range for the tensor or one for each channel.
        scale_type: the float type every scale is rounded to. ``float16`` makes a number that no export changes;
            ``float32`` keeps ranges exactly as another tool stored them.
        range_source: ``calibrated`` ranges come from data, ``weight`` ranges follow the weight they belong to,
            ``constant`` ranges are known beforehand (attention probabilities lie in [0, 1]), ``stored`` ones are a
            weight's as another tool left them.
        token_axis: where the tokens lie in an activation, so that padding can be left out; batch is axis 0.
        tokens: whose they are.
        bits: how many of the 8 a weight uses. Of 7 the levels reach from -63 to 63, so that no pair of products
            with unsigned activations leaves 16 bits.
    """

    granularity: Granularity = PerTensor()
    scale_type: ScaleType = "float16"
    range_source: RangeSource = "calibrated"
    token_axis: int = 1
    tokens: Tokens = "own"
    bits: Bits = 8

    @property
    def headroom(self) -> float:
        """How many times the range is as wide as the largest value: 127 steps of INT8 by those that are used.

        >>> QuantSpec().headroom, QuantSpec(bits=7).headroom == 127 / 63
        (1.0, True)
        """
        return INT8_MAX / ((1 << (self.bits - 1)) - 1)
