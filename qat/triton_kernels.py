"""The fake-quantize operator in Triton's language, bit-equal to the composed one in fake_quant.py.

Pointers to contiguous FP32 and FP16 values, or to the bits of BF16 as INT16. A mask holds one bit a value, the lowest
of a byte first: whether the value lay inside the range. Quotients are IEEE's (``div_rn``), and products are rounded
before they are added to (``OPTIONS`` of fused_triton.py). Every program works on ``BLOCK`` values.
"""

import triton
import triton.language as tl

BLOCK = tl.constexpr(1024)
"""A power of two, a multiple of 8."""

_MIN, _MAX = tl.constexpr(-128.0), tl.constexpr(127.0)
_BELOW, _ABOVE = tl.constexpr(-129.0), tl.constexpr(128.0)
_ONES = tl.constexpr(2.0**23)
"""From here on FP32 counts in ones."""
_SIGN, _MAGNITUDE = tl.constexpr(-(2**31)), tl.constexpr(2**31 - 1)
_NAN_BF16 = tl.constexpr(0x7FC0)


@triton.jit
def round_masked(x, y, mask, scale, count):
    """Stores ``x`` rounded to steps of one scale, and the mask."""
    byte, bit, place, there = _find_bits(count)
    steps = _round(tl.div_rn(_widen(tl.load(x + place, mask=there, other=0)), tl.load(scale)))
    tl.store(y + place, _narrow(_clip(steps) * tl.load(scale), y.dtype.element_ty), mask=there)
    inside = (_is_inside(steps) & there).to(tl.int32)
    tl.store(mask + byte, tl.sum(inside << bit, axis=1).to(tl.uint8), mask=byte * 8 < count)


@triton.jit
def pass_masked(gradient, mask, passed, count):
    """Stores ``gradient`` times its bits of the mask."""
    byte, bit, place, there = _find_bits(count)
    inside = (tl.load(mask + byte, mask=byte * 8 < count, other=0).to(tl.int32)[:, None] >> bit) & 1
    given = _widen(tl.load(gradient + place, mask=there, other=0))
    tl.store(passed + place, _narrow(given * inside.to(tl.float32), passed.dtype.element_ty), mask=there)


@triton.jit
def round_all(x, y, scale, count):
    """Stores ``x`` rounded to steps of one scale."""
    place = _find_places()
    there = place < count
    steps = _round(tl.div_rn(_widen(tl.load(x + place, mask=there, other=0)), tl.load(scale)))
    tl.store(y + place, _narrow(_clip(steps) * tl.load(scale), y.dtype.element_ty), mask=there)


@triton.jit
def round_channels(x, y, scales, count, channels, inner):
    """Stores ``x`` rounded to steps of its channel's scale; ``inner`` values in a row share a channel.

    Numbers of 64 bits, which GPUs divide in many instructions, are divided once a program.
    """
    place = _find_places()
    there = place < count
    first = tl.program_id(0).to(tl.int64) * BLOCK
    row = ((first % inner).to(tl.int32) + tl.arange(0, BLOCK)) // inner
    scale = tl.load(scales + ((first // inner % channels).to(tl.int32) + row) % channels, mask=there, other=1)
    steps = _round(tl.div_rn(_widen(tl.load(x + place, mask=there, other=0)), scale))
    tl.store(y + place, _narrow(_clip(steps) * scale, y.dtype.element_ty), mask=there)


@triton.jit
def learn(gradient, x, passed, sums, scale, count):
    """Stores the gradient of ``x``, and of each block the sum that the gradient of the scale is made of."""
    place = _find_places()
    there = place < count
    quotient = tl.div_rn(_widen(tl.load(x + place, mask=there, other=0)), tl.load(scale))
    steps = _round(quotient)
    inside = _is_inside(steps).to(tl.float32)
    given = _widen(tl.load(gradient + place, mask=there, other=0))
    tl.store(passed + place, _narrow(given * inside, passed.dtype.element_ty), mask=there)
    tl.store(sums + tl.program_id(0), tl.sum(given * (_clip(steps) - inside * quotient), axis=0))


@triton.jit
def largest_bits(x, found, inner, parts):
    """Stores the bits of the largest magnitude of each of the ``parts`` of each row of ``inner`` values."""
    program = tl.program_id(0).to(tl.int64)
    within = program % parts * BLOCK + tl.arange(0, BLOCK)
    values = _widen(tl.load(x + program // parts * inner + within, mask=within < inner, other=0))
    tl.store(found + program, tl.max(values.to(tl.int32, bitcast=True) & _MAGNITUDE, axis=0))


@triton.jit
def _find_places():
    return tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _find_bits(count):
    """The bytes of the mask, the bits in them, the values they stand for, and which of those there are."""
    byte = tl.program_id(0).to(tl.int64) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    bit = tl.arange(0, 8)[None, :]
    place = byte[:, None] * 8 + bit
    return byte, bit, place, place < count


@triton.jit
def _round(quotient):
    """To the nearest whole number, ties to even, the sign of zero kept; what lies outside the range stays outside."""
    near = tl.where(quotient < _BELOW, _BELOW, quotient)  # a NaN passes both comparisons
    near = tl.where(near > _ABOVE, _ABOVE, near)
    whole = ((tl.abs(near) + _ONES) - _ONES).to(tl.int32, bitcast=True)
    return (whole | (near.to(tl.int32, bitcast=True) & _SIGN)).to(tl.float32, bitcast=True)


@triton.jit
def _clip(steps):
    above = tl.where(steps < _MIN, _MIN, steps)
    return tl.where(above > _MAX, _MAX, above)


@triton.jit
def _is_inside(steps):
    return (steps >= _MIN) & (steps <= _MAX)


@triton.jit
def _widen(values):
    if values.dtype == tl.int16:
        return (values.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return values.to(tl.float32)


@triton.jit
def _narrow(values, dtype: tl.constexpr):
    if dtype == tl.int16:  # to the nearest, ties to even
        bits = values.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where(values == values, rounded, _NAN_BF16).to(tl.int16)
    return values.to(dtype)
