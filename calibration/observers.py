"""Observers: what passes through the quantizers of a float model is counted, real tokens only, in constant memory."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from calibration.channels import ChannelPeaks
from calibration.counting import count_tokens
from calibration.histogram import Histogram
from calibration.probe import Probe
from qat.errors import CheckpointError, DataError, RangeError
from qat.padding import RealTokens, list_tokens
from qat.quantizer import FakeQuantizer, calibrated_quantizers

Key = tuple[str, int]
"""A range: the path of its quantizer, and the depth."""


class RangeObserver:
    """Histograms of the inputs of every quantizer whose range comes from data, one for each depth.

    Attributes:
        histograms: by the quantizer's path, then by depth.
        channels: the largest magnitude of every channel, likewise.
        batches, rows, tokens: what has been seen; padding is no token.
        probe: some of the batches.
    """

    def __init__(self, model: nn.Module) -> None:
        self.histograms = {
            name: [Histogram() for _ in quantizer.amax] for name, quantizer in calibrated_quantizers(model)
        }
        self.channels = {name: [ChannelPeaks() for _ in found] for name, found in self.histograms.items()}
        self.batches = self.rows = self.tokens = 0
        self.probe = Probe()
        self._real = RealTokens()
        self._fresh: dict[Key, None] = {}

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Inside the block every pass of ``model`` between ``begin`` and ``finish`` is counted."""
        hooks = [
            quantizer.register_forward_pre_hook(self._make_hook(name))
            for name, quantizer in calibrated_quantizers(model)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def begin(self, inputs: Mapping[str, Tensor], number: int) -> None:
        """Takes note of the batch that is about to run.

        Raises:
            DataError: it holds nothing but padding.
        """
        first = next(iter(inputs.values()))
        self._real = RealTokens.of(inputs)
        real = first.numel() if self._real.own is None else len(self._real.own)
        if real == 0:
            raise DataError(f"batch {number} holds nothing but padding: remove its empty rows")
        self._fresh = {}
        self.probe.add(inputs, number)
        self.batches, self.rows, self.tokens = self.batches + 1, self.rows + len(first), self.tokens + real

    def finish(self, number: int) -> None:
        """Takes note that it has run.

        Raises:
            RangeError: activations that were not finite, by the first quantizer that met them.
        """
        keys = list(self._fresh)
        if not keys:
            return
        finite = torch.stack([self.histograms[name][depth].peak for name, depth in keys]).isfinite()
        if not bool(finite.all()):
            name = keys[int((~finite).nonzero()[0])][0]
            raise RangeError(
                f"activations at '{name}' are not finite in batch {number}: look for NaN or infinite "
                "weights in this layer or before it, or for broken inputs in that batch"
            )

    def require_data(self) -> None:
        """Passes when every range saw something.

        Raises:
            CheckpointError: some did not, by name.
        """
        unseen = [
            name + (f" (depth {depth})" if len(found) > 1 else "")
            for name, found in self.histograms.items()
            for depth, histogram in enumerate(found)
            if not bool(histogram.counts.any())
        ]
        if unseen:
            raise CheckpointError(
                f"{len(unseen)} quantizers saw no data: {', '.join(unseen[:3])}{', ...' if len(unseen) > 3 else ''}; "
                "give calibration batches that reach every layer"
            )

    def _make_hook(self, name: str) -> Callable[[FakeQuantizer, tuple[Tensor, ...]], None]:
        def count(module: FakeQuantizer, arguments: tuple[Tensor, ...]) -> None:
            tokens, real = list_tokens(arguments[0], module.spec.token_axis), self._real.find(module.spec)
            count_tokens(tokens, real, self.histograms[name][module.depth], self.channels[name][module.depth])
            self._fresh[name, module.depth] = None

        return count
