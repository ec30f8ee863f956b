"""The fake-quantize operator as one pass over memory: which kernels a tensor's device has, or none.

Where there are none, the composed operator computes the same numbers, and a warning says so once. ``QDQ_FUSED=off``
leaves them out and says nothing.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import torch
from torch import Tensor

from qat.errors import BuildError
from qat.fused_cpu import open_cpu_kernels
from qat.fused_triton import open_triton_kernels

VARIABLE = "QDQ_FUSED"


class FusedKernels(Protocol):
    """The functions for one dtype; every tensor is contiguous, every mask of ``ceil(numel / 8)`` bytes."""

    def round_masked(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` rounded to steps of one scale, and the mask of what lay inside."""

    def round_rows(self, x: Tensor, scale: Tensor, axis: int | None) -> Tensor:
        """``x`` rounded to steps of one scale, or of one for each index of ``axis``."""

    def amax(self, x: Tensor, axis: int | None) -> Tensor:
        """The largest magnitude of ``x``, or of each index of its first axis, in FP32; NaN where there is one."""

    def pass_masked(self, gradient: Tensor, mask: Tensor) -> Tensor:
        """``gradient`` where the mask is set, times zero elsewhere."""

    def learn(self, gradient: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of ``x`` and that of its one scale."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the kernels of a kind of device come from.

    Attributes:
        load: the kernels of each dtype; a ``BuildError`` or ``OSError`` where they cannot be had.
        absence: what a run goes without then.
        mend: what would help.
    """

    load: Callable[[], Mapping[torch.dtype, FusedKernels]]
    absence: str
    mend: str


SOURCES: dict[str, _Source] = {
    "cpu": _Source(
        open_cpu_kernels, "fused CPU kernel, several times slower", "Install g++ (or name a compiler in CXX)"
    ),
    "cuda": _Source(
        partial(open_triton_kernels, "cuda"), "fused GPU kernel", "Install triton and the C compiler that it needs"
    ),
}
"""By torch's name of the device."""

_composed_blocks: set[object] = set()
"""Those that are open in any thread: autograd walks back over a GPU's tensors in threads of its own."""


@contextmanager
def composed_only() -> Iterator[None]:
    """Inside the block the composed operator computes everything."""
    block = object()
    _composed_blocks.add(block)
    try:
        yield
    finally:
        _composed_blocks.remove(block)


def find_kernels(x: Tensor) -> FusedKernels | None:
    """The kernels for tensors like ``x``, or None where the composed operator computes them."""
    if _composed_blocks or x.device.type not in SOURCES:
        return None
    return load_kernels(x.device.type).get(x.dtype)


@cache
def load_kernels(device: str) -> Mapping[torch.dtype, FusedKernels]:
    """The kernels of each dtype, compiled first where need be; none where not wanted or not possible.

    Args:
        device: one of ``SOURCES``.
    """
    if os.environ.get(VARIABLE, "").lower() == "off":
        return {}
    source = SOURCES[device]
    try:
        return source.load()
    except (BuildError, OSError) as error:
        warnings.warn(
            f"fake quantization runs without its {source.absence}: {error}. "
            f"{source.mend}, or set {VARIABLE}=off to say that this is fine",
            RuntimeWarning,
            stacklevel=2,
        )
        return {}
