"""Laws of the quantizer over ranges of any size: half a step at most inside, the ends outside, nothing invented."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qat.fake_quant import fake_quantize, largest_magnitude, scale_from_amax
from qat.fused_kernels import composed_only
from qat.quantizer import FakeQuantizer
from qat.spec import LARGEST_SCALE, SMALLEST_SCALE, PerChannel, QuantSpec, ScaleType
from tests.oracles import Floats
from tests.tolerances import HALF_STEP

WIDEST = float(np.float32(3.3e38))
"""128 steps of a range this wide are a number in FP32."""
ROOMY = (127 * SMALLEST_SCALE, 127 * LARGEST_SCALE)
"""The ranges whose scale neither the floor nor the ceiling of FP16 moves."""

ANY = st.floats(-WIDEST, WIDEST, width=32)
SCALES: tuple[ScaleType, ...] = ("float16", "float32")
TENSORS = arrays(np.float32, st.integers(1, 12), elements=st.one_of(ANY, st.floats(-4, 4, width=32)))


def quantize(x: Floats, amax: float, scale_type: ScaleType = "float16") -> tuple[Floats, float]:
    """The tensor rounded in the range ``amax``, and the step."""
    quantizer = FakeQuantizer(QuantSpec(scale_type=scale_type), ranges=1, name="slot")
    quantizer.set_range(torch.tensor([amax], dtype=torch.float32))
    return quantizer(torch.from_numpy(x)).numpy(), quantizer.scale().item()


@pytest.mark.parametrize("scale_type", SCALES)
@given(
    shares=arrays(np.float32, 8, elements=st.floats(-1, 1, width=32)),
    amax=st.floats(*ROOMY, width=32, exclude_max=True),
)
def test_inside_the_range_a_value_moves_by_half_a_step_at_most(
    scale_type: ScaleType, shares: Floats, amax: float
) -> None:
    _, step = quantize(shares, amax, scale_type)
    x = (shares * np.float32(127 * step)).astype(np.float32)
    moved = np.abs(quantize(x, amax, scale_type)[0].astype(np.float64) - x)
    assert (moved <= HALF_STEP.value * step).all()


@pytest.mark.parametrize("scale_type", SCALES)
@given(x=TENSORS, amax=st.floats(0, WIDEST, width=32))
@example(x=np.array([np.inf, -np.inf, 3.4e38, 1e-45], np.float32), amax=1.0)
@example(x=np.array([np.inf, -np.inf, 3.4e38, 1e-45], np.float32), amax=1e-45)
@example(x=np.array([np.inf, -np.inf, 3.4e38, 1e-45], np.float32), amax=WIDEST)
def test_outside_the_range_a_value_is_its_end_and_nothing_is_infinite(
    scale_type: ScaleType, x: Floats, amax: float
) -> None:
    answer, step = quantize(x, amax, scale_type)
    ends = np.float32(-128) * np.float32(step), np.float32(127) * np.float32(step)
    wide = x.astype(np.float64)
    assert (answer[wide >= ends[1]] == ends[1]).all()
    assert (answer[wide <= ends[0]] == ends[0]).all()
    assert np.isfinite(answer).all()


@given(x=TENSORS)
@example(x=np.array([0.0], np.float32))
@example(x=np.array([1e-45, -1e-40], np.float32))
@example(x=np.array([WIDEST, 1.0], np.float32))
def test_the_range_that_covers_a_tensor_loses_half_a_step_of_its_largest_value(x: Floats) -> None:
    amax = largest_magnitude(torch.from_numpy(x), None).item()
    answer, step = quantize(x, amax, "float32")
    assert amax == np.abs(x).max()
    moved = np.abs(answer.astype(np.float64) - x)
    assert (moved <= HALF_STEP.value * step).all()


@given(x=arrays(np.float32, 6, elements=st.floats(-SMALLEST_SCALE / 2, SMALLEST_SCALE / 2, width=32)))
@example(x=np.full(6, 1e-45, np.float32))
def test_what_is_smaller_than_half_the_smallest_step_is_zero(x: Floats) -> None:
    answer, step = quantize(x, float(np.abs(x).max()))
    assert step == SMALLEST_SCALE
    assert (answer == 0).all()


def test_a_value_that_is_no_number_stays_none() -> None:
    x = torch.tensor([float("nan"), 1.0, float("inf"), -float("inf")])
    with composed_only():
        composed = fake_quantize(x, torch.tensor(0.5), None)
    for answer in (composed, fake_quantize(x, torch.tensor(0.5), None)):
        assert str(answer.tolist()) == "[nan, 1.0, 63.5, -64.0]"
    assert largest_magnitude(x, None).isnan().all()


@given(
    x=arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32)),
    amax=arrays(np.float32, 3, elements=st.floats(0, 100, width=32)),
)
def test_a_channel_is_rounded_as_if_it_were_alone(x: Floats, amax: Floats) -> None:
    quantizer = FakeQuantizer(QuantSpec(granularity=PerChannel(0)), ranges=3, name="slot")
    quantizer.set_range(torch.from_numpy(amax))
    alone = [quantize(row, float(most))[0] for row, most in zip(x, amax, strict=True)]
    np.testing.assert_array_equal(quantizer(torch.from_numpy(x)).numpy(), np.stack(alone))


@given(narrow=st.floats(0, WIDEST, width=32), wide=st.floats(0, WIDEST, width=32))
def test_a_wider_range_never_has_a_smaller_step(narrow: float, wide: float) -> None:
    steps = scale_from_amax(torch.tensor(sorted((narrow, wide)), dtype=torch.float32), "float16")
    assert steps[0] <= steps[1]


@given(steps=st.integers(-127, 127), power=st.integers(-7, 7))
def test_a_range_of_a_power_of_two_loses_no_level(steps: int, power: int) -> None:
    step = 2.0**power
    x = np.array([steps * step], np.float32)
    np.testing.assert_array_equal(quantize(x, 127 * step)[0], x)
