"""The largest magnitude of every channel, to the nearest FP16 number, in constant memory, merged exactly."""

from typing import Self

import numpy as np
import torch
from torch import Tensor

from calibration.histogram import Floats


class ChannelPeaks:
    """One largest magnitude a channel, on the device of what it was given; none before the first tensor.

    >>> from calibration.histogram import magnitude_bits
    >>> peaks = ChannelPeaks()
    >>> peaks.update(magnitude_bits(torch.tensor([[1.0, -4.0], [2.0, 3.0]])))
    >>> peaks.read(4.0).tolist()
    [2.0, 4.0]
    """

    def __init__(self) -> None:
        self._peaks: Tensor | None = None

    def update(self, bits: Tensor) -> None:
        """Takes in magnitudes as ``magnitude_bits`` gives them, ``(tokens, channels)``, at least one token."""
        self._raise_to(bits.amax(dim=0))  # the bits of numbers without sign are ordered as the numbers are

    def open(self, channels: int) -> Tensor:
        """The bits of so many channels on the CPU, zeros before the first tensor, to be raised in place."""
        self._peaks = torch.zeros(channels, dtype=torch.int16) if self._peaks is None else self._peaks.cpu()
        return self._peaks

    def merge(self, other: Self) -> None:
        """Takes in all that ``other`` has seen."""
        if other._peaks is not None:
            self._raise_to(other._peaks)

    def _raise_to(self, peaks: Tensor) -> None:
        self._peaks = peaks.clone() if self._peaks is None else torch.maximum(self._peaks.to(peaks.device), peaks)

    def read(self, largest: float) -> Floats:
        """The magnitudes, ``(channels,)``, none above the ``largest`` of the tensor; empty where nothing was seen."""
        if self._peaks is None:
            return np.zeros(0)
        return np.minimum(self._peaks.cpu().numpy().view(np.float16).astype(np.float64), largest)
