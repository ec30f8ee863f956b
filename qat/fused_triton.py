"""The fake-quantize operator as one pass over memory on a GPU, where Triton is installed: torch's CUDA builds bring it.

``triton_kernels.py`` is compiled by Triton when a tensor first needs it, into Triton's own cache. A first call on a few
values shows whether that works here: Triton builds what starts its kernels with a C compiler.
"""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from qat.errors import BuildError

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LARGEST_ROW = 2**31 - 2048
"""Values that share a channel are counted in 32 bits."""

OPTIONS: Mapping[str, bool] = {"enable_fp_fusion": False}
"""How the kernels are compiled: every product is rounded before anything is added to it, whatever Triton's default."""


@dataclass(frozen=True, slots=True)
class TritonKernels:
    """The compiled functions; every tensor is contiguous, every mask of ``ceil(numel / 8)`` bytes."""

    functions: ModuleType

    @property
    def _block(self) -> int:
        return int(self.functions.BLOCK.value)

    def round_masked(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` rounded to steps of one scale, and the mask of what lay inside."""
        y, mask = torch.empty_like(x), x.new_empty((x.numel() + 7) // 8, dtype=torch.uint8)
        self._launch("round_masked", x.numel(), _raw(x), _raw(y), mask, _steps(scale, x), x.numel())
        return y, mask

    def round_rows(self, x: Tensor, scale: Tensor, axis: int | None) -> Tensor:
        """``x`` rounded to steps of one scale, or of one for each index of ``axis``."""
        y = torch.empty_like(x)
        steps = _steps(scale, x)
        if axis is None:
            self._launch("round_all", x.numel(), _raw(x), _raw(y), steps, x.numel())
        else:
            inner = x.shape[axis % x.dim() + 1 :].numel()
            assert inner <= _LARGEST_ROW, f"{inner} values of one channel in a row"
            self._launch("round_channels", x.numel(), _raw(x), _raw(y), steps, x.numel(), steps.numel(), inner)
        return y

    def amax(self, x: Tensor, axis: int | None) -> Tensor:
        """The largest magnitude of ``x``, or of each index of its first axis, in FP32; NaN where there is one."""
        rows, inner = (1, x.numel()) if axis is None else (x.shape[0], x.shape[1:].numel())
        parts = self._programs(inner)
        found = x.new_empty((rows, parts), dtype=torch.int32)
        self._launch("largest_bits", rows * parts * self._block, _raw(x), found, inner, parts)
        return found.amax(dim=1).view(torch.float32)  # magnitudes sort like their bits, a NaN above all

    def pass_masked(self, gradient: Tensor, mask: Tensor) -> Tensor:
        """``gradient`` where the mask is set, times zero elsewhere."""
        passed = torch.empty_like(gradient)
        self._launch("pass_masked", gradient.numel(), _raw(gradient), mask, _raw(passed), gradient.numel())
        return passed

    def learn(self, gradient: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of ``x`` and that of its one scale."""
        passed, sums = torch.empty_like(gradient), x.new_empty(self._programs(x.numel()), dtype=torch.float32)
        given = _raw(gradient), _raw(x), _raw(passed), sums, _steps(scale, x)
        self._launch("learn", x.numel(), *given, x.numel())
        return passed, sums.sum(dtype=torch.float64).to(torch.float32)

    def _launch(self, name: str, count: int, x: Tensor, *rest: Tensor | int) -> None:
        """Starts the programs for ``count`` values, on the GPU of ``x``."""
        if count:
            with torch.cuda.device_of(x):
                getattr(self.functions, name)[(self._programs(count),)](x, *rest, **OPTIONS)

    def _programs(self, count: int) -> int:
        return (count + self._block - 1) // self._block


def open_triton_kernels(device: str) -> Mapping[torch.dtype, TritonKernels]:
    """The kernels of each dtype, tried once on ``device``.

    Raises:
        BuildError: Triton is not installed, or cannot compile for this machine; the last line it wrote.
    """
    try:
        from triton import TritonError

        from qat import triton_kernels
    except ImportError as error:
        raise BuildError(str(error)) from error
    kernels = TritonKernels(triton_kernels)
    try:
        kernels.round_masked(torch.zeros(8, device=device), torch.ones((), device=device))
    except (TritonError, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        said = str(error).strip() or type(error).__name__
        raise BuildError(f"triton failed: {said.splitlines()[-1]}") from error
    return dict.fromkeys(_DTYPES, kernels)


def _raw(x: Tensor) -> Tensor:
    """``x``, of BF16 its bits: the kernels widen and round those themselves."""
    return x.detach().view(torch.int16) if x.dtype == torch.bfloat16 else x.detach()


def _steps(scale: Tensor, x: Tensor) -> Tensor:
    return scale.detach().to(x.device).contiguous()
