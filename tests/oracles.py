"""What the contract's arithmetic gives, in NumPy alone: nothing here imports the project."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_LEAST, _MOST = -128, 127


def round_to_steps(x: Floats, scale: Floats, axis: int | None = None) -> NDArray[np.int8]:
    """The INT8 numbers of ``x``: the nearest step, ties to the even one, saturated."""
    with np.errstate(over="ignore"):  # a quotient beyond FP32 is infinite, and saturates like any other
        steps = np.rint(np.divide(x, _along(scale, x.ndim, axis), dtype=np.float32))
    return np.clip(steps, _LEAST, _MOST).astype(np.int8)


def fake_quantize(x: Floats, scale: Floats, axis: int | None = None) -> Floats:
    """``x`` rounded to INT8 and back, in FP32."""
    whole = round_to_steps(x, scale, axis).astype(np.float32)
    return np.multiply(whole, _along(scale, x.ndim, axis), dtype=np.float32)


def is_inside(x: Floats, scale: Floats, axis: int | None = None) -> NDArray[np.bool_]:
    """Where rounding ``x`` gives a number that INT8 has, so that nothing is saturated."""
    with np.errstate(over="ignore"):
        steps = np.rint(np.divide(x, _along(scale, x.ndim, axis), dtype=np.float32))
    return np.asarray((steps >= _LEAST) & (steps <= _MOST))


def scale_of(amax: Floats) -> Floats:
    """``amax / 127`` as FP16 stores it, neither below its smallest normal number nor above its largest."""
    half = np.finfo(np.float16)
    scale = np.divide(amax, np.float32(_MOST), dtype=np.float32)
    return np.clip(scale, half.smallest_normal, half.max).astype(np.float16).astype(np.float32)


def _along(scale: Floats, dimensions: int, axis: int | None) -> Floats:
    if axis is None:
        return scale
    return np.expand_dims(scale, [i for i in range(dimensions) if i != axis % dimensions])


def scale_gradient(x: Floats, scale: Floats, upstream: Floats, axis: int | None = None) -> NDArray[np.float64]:
    """LSQ's gradient of the scale, equation 3 of arXiv 1902.08153, in FP64: one number, or one a channel."""
    wide = np.asarray(x, np.float64) / np.asarray(_along(scale, x.ndim, axis), np.float64)
    slope = np.where(is_inside(x, scale, axis), np.rint(wide) - wide, np.clip(wide, _LEAST, _MOST))
    others = tuple(i for i in range(x.ndim) if i != axis)
    return np.asarray((slope * upstream).sum(axis=others))


def linear_counts(magnitudes: Floats, bins: int) -> NDArray[np.float64]:
    """How many magnitudes lie in each of ``bins`` equal bins up to the largest, each spread over its FP16 interval.

    The interval of an FP16 number is what rounds to it; the largest magnitude ends the last one.
    """
    largest = float(magnitudes.max())
    edges = np.linspace(0.0, largest, bins + 1)
    found = np.zeros(bins)
    for value, count in zip(*np.unique(magnitudes.astype(np.float16), return_counts=True), strict=True):
        below, above = np.nextafter(value, np.float16(-np.inf)), np.nextafter(value, np.float16(np.inf))
        middle = float(value)
        first, last = max((float(below) + middle) / 2, 0.0), min((float(above) + middle) / 2, largest)
        if last <= first:  # zero width: the largest lies on the edge
            found[-1] += count
            continue
        inside = np.clip(np.minimum(edges[1:], last) - np.maximum(edges[:-1], first), 0.0, None)
        found += count * inside / (last - first)
    return found


def int8_squared_error(magnitudes: NDArray[np.float64], weights: NDArray[np.float64], amax: float) -> float:
    """The weighted squared difference between magnitudes and their INT8 numbers of range ``amax``."""
    step = amax / _MOST
    rounded = np.clip(np.rint(magnitudes / step), 0, _MOST) * step
    return float((weights * (magnitudes - rounded) ** 2).sum())


def clipping_divergence(counts: NDArray[np.float64], kept: int) -> float:
    """``KL(P || Q)`` of keeping the first ``kept`` bins: TensorRT's calibration, written out level by level."""
    counts = counts.copy()
    counts[0] = counts[1]
    reference = counts[:kept].copy()
    reference[-1] += counts[kept:].sum()
    spread = np.zeros(kept)
    for level in range(_MOST + 1):
        inside = [i for i in range(kept) if i * (_MOST + 1) // kept == level and counts[i] > 0]
        spread[inside] = counts[inside].sum() / max(len(inside), 1)
    if spread.sum() == 0 or bool(((reference > 0) & (spread == 0)).any()):
        return float("inf")
    p, q = reference / reference.sum(), spread / spread.sum()
    filled = p > 0
    return float((p[filled] * np.log(p[filled] / q[filled])).sum())
