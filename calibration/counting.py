"""What one tensor adds to a range's evidence: in one pass where the CPU has a kernel, else by torch's operators."""

from torch import Tensor

from calibration.channels import ChannelPeaks
from calibration.histogram import Histogram, magnitude_bits
from qat.fused_cpu import CpuKernels
from qat.fused_kernels import find_kernels


def count_tokens(x: Tensor, real: Tensor | None, histogram: Histogram, channels: ChannelPeaks) -> None:
    """Counts the magnitudes of ``x`` at its real tokens, at least one; the same numbers either way.

    Args:
        x: ``(tokens, values)``.
        real: the numbers of the tokens that count, None for all.
        histogram: counts every value.
        channels: keeps the largest magnitude of each of them.

    >>> import torch
    >>> histogram, channels = Histogram(), ChannelPeaks()
    >>> count_tokens(torch.tensor([[1.0, -4.0], [9.0, 9.0], [2.0, 3.0]]), torch.tensor([0, 2]), histogram, channels)
    >>> histogram.points()[0].tolist(), channels.read(4.0).tolist()
    ([1.0, 2.0, 3.0, 4.0], [2.0, 4.0])
    """
    kernels = find_kernels(x)
    if isinstance(kernels, CpuKernels):
        histogram.to(x.device)
        counted = kernels.count_rows(x.contiguous(), real, histogram.counts, channels.open(x.shape[1]))
        histogram.raise_to(counted)
        return
    picked = x if real is None else x.index_select(0, real)
    bits = magnitude_bits(picked)
    histogram.update(picked, bits)
    channels.update(bits)
