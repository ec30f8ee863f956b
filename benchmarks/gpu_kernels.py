"""The fused fake-quantize kernels beside the composed operator: the same bits, and the time of each, on a GPU."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import time_paired
from qat.errors import BuildError
from qat.fake_quant import fake_quantize, fake_quantize_within, largest_magnitude
from qat.fused_kernels import composed_only, find_kernels

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_REPEATS = 10
"""Calls between two readings of the clock, which take a GPU tens of microseconds each."""


@dataclass(frozen=True, slots=True)
class KernelCase:
    """One tensor of a model.

    Attributes:
        name: which.
        shape: its axes.
        axis: of its channels, None for one scale; a tensor with channels is a weight, whose range covers it.
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None = None


CASES = (
    KernelCase("hidden state", (32, 128, 768)),
    KernelCase("feed-forward", (32, 128, 3072)),
    KernelCase("attention", (32, 12, 128, 128)),
    KernelCase("weight, a scale a channel", (3072, 768), 0),
)
"""Of a BERT-base on 32 rows of 128 tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelTimes:
    """What one tensor takes, forward and backward, in milliseconds (medians)."""

    case: str
    dtype: str
    fused: float
    composed: float


def measure_kernels(device: torch.device, rounds: int, cases: Sequence[KernelCase] = CASES) -> dict[str, Any]:
    """The times of every case in every dtype that ``device`` has kernels for, once all gave the composed bits.

    Raises:
        BuildError: there are no fused kernels here, or they answer otherwise than the composed operator.
    """
    made = [
        (case, dtype, _make(case, dtype, device))
        for case in cases
        for dtype in _DTYPES
        if find_kernels(torch.empty(0, dtype=dtype, device=device))
    ]
    if not made:
        raise BuildError("no fused kernels for this device: see the warning above, and unset QDQ_FUSED if it is off")
    wrong = [f"{case.name} in {_name(dtype)}" for case, dtype, pass_once in made if not _is_equal(pass_once)]
    if wrong:
        raise BuildError(f"the fused kernels and the composed operator differ: {', '.join(wrong)}")
    times = [_time(case, dtype, pass_once, device, rounds) for case, dtype, pass_once in made]
    return {"same_bits": len(made), "milliseconds": [asdict(each) for each in times]}


Pass = Callable[[], tuple[Tensor, ...]]


def _make(case: KernelCase, dtype: torch.dtype, device: torch.device) -> Pass:
    """One forward and backward pass: what is rounded, its gradient, and the range of a weight."""
    generator = torch.Generator().manual_seed(0)
    x, upstream = (torch.randn(case.shape, generator=generator).to(device, dtype) for _ in range(2))
    leaf = x.requires_grad_()
    if case.axis is None:
        return partial(_pass_activation, leaf, upstream, torch.tensor(2.5 / 127, device=device))
    return partial(_pass_weight, leaf, upstream, case.axis)


def _pass_activation(x: Tensor, upstream: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    rounded = fake_quantize(x, scale, None)
    return rounded.detach(), *torch.autograd.grad(rounded, x, upstream)


def _pass_weight(x: Tensor, upstream: Tensor, axis: int) -> tuple[Tensor, ...]:
    amax = largest_magnitude(x.detach(), axis)
    rounded = fake_quantize_within(x, amax / 127, axis)
    return rounded.detach(), amax, *torch.autograd.grad(rounded, x, upstream)


def _is_equal(pass_once: Pass) -> bool:
    fused = pass_once()
    with composed_only():
        composed = pass_once()
    bits = ((one.view(torch.uint8), other.view(torch.uint8)) for one, other in zip(fused, composed, strict=True))
    return all(torch.equal(one, other) for one, other in bits)


def _time(case: KernelCase, dtype: torch.dtype, pass_once: Pass, device: torch.device, rounds: int) -> KernelTimes:
    def repeat(*, fused: bool) -> None:
        with nullcontext() if fused else composed_only():
            for _ in range(_REPEATS):
                pass_once()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    taken = time_paired(
        {"fused": partial(repeat, fused=True), "composed": partial(repeat, fused=False)}, repeats=rounds
    )
    medians = {name: samples.p50 / _REPEATS for name, samples in taken.items()}
    return KernelTimes(case=case.name, dtype=_name(dtype), **medians)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
