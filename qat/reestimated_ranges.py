"""Re-estimated ranges: activation ranges follow a moving average of what passes while a model trains.

Calibration clips some tensors below their largest value, and that ratio of range to largest value is kept: the range
follows the largest value of each batch (Jacob et al. 2018, arXiv 1712.05877, section 3.1, with a ratio that is not 1).
Towards the end of the training ranges stand still, so that the weights settle on the numbers an engine will use.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, distributed
from transformers import PreTrainedModel

from qat.padding import RealTokens
from qat.quantizer import FakeQuantizer, calibrated_quantizers, disable_quantizers
from qat.range_training import Batch, RangeTraining

_REFERENCE = 8
"""Batches that say how far ranges lie below the largest values."""

Key = tuple[str, int]


class ReestimatedRanges(RangeTraining):
    """Ranges follow what they see.

    Args:
        momentum: the share of a range that one step replaces.
        until: the share of the steps after which ranges stand still.
    """

    def __init__(self, momentum: float = 0.05, until: float = 0.7) -> None:
        self._momentum, self._until = momentum, until
        self._real = RealTokens()
        self._measuring = False
        self._peaks: dict[Key, Tensor] = {}
        self._ratios: dict[Key, Tensor] = {}
        self._quantizers: dict[str, FakeQuantizer] = {}

    @contextmanager
    def training(self, model: PreTrainedModel, batches: Callable[[], Iterable[Batch]]) -> Iterator[None]:
        """As the base class's; the first batches are run in float to learn each range's ratio."""
        self._quantizers = dict(calibrated_quantizers(model))
        hooks = [each.register_forward_pre_hook(self._make_hook(name)) for name, each in self._quantizers.items()]
        try:
            self._ratios = self._measure_ratios(model, islice(batches(), _REFERENCE))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def begin(self, batch: Batch) -> None:
        """Takes note of which tokens are real."""
        self._real = RealTokens.of(batch)

    def step(self, done: int, steps: int) -> None:
        """Moves every range towards the ratio of the largest value of the step, over all processes."""
        peaks, self._peaks = self._peaks, {}
        if done > self._until * steps or not peaks:
            return
        keys = sorted(peaks)
        seen = torch.stack([peaks[key] for key in keys])
        if distributed.is_initialized():
            distributed.all_reduce(seen, op=distributed.ReduceOp.MAX)
        with torch.no_grad():
            for key, peak in zip(keys, seen, strict=True):
                name, depth = key
                self._quantizers[name].amax[depth].lerp_(self._ratios[key] * peak, self._momentum)

    def _measure_ratios(self, model: PreTrainedModel, batches: Iterable[Batch]) -> dict[Key, Tensor]:
        sums: dict[Key, Tensor] = {}
        count = 0
        training, self._measuring = model.training, True
        model.eval()
        with torch.no_grad(), disable_quantizers(model):
            for batch in batches:
                self.begin(batch)
                model(**batch)
                for key, peak in self._peaks.items():
                    sums[key] = sums.get(key, torch.zeros_like(peak)) + peak
                self._peaks = {}
                count += 1
        model.train(training)
        self._measuring = False
        keys = sorted(sums)
        means = torch.stack([sums[key] for key in keys]) / count
        if distributed.is_initialized():
            distributed.all_reduce(means)
            means /= distributed.get_world_size()
        return {
            (name, depth): self._quantizers[name].amax[depth] / mean if float(mean) > 0 else mean
            for (name, depth), mean in zip(keys, means, strict=True)
        }

    def _make_hook(self, name: str) -> Callable[[FakeQuantizer, tuple[Tensor, ...]], None]:
        def note(quantizer: FakeQuantizer, arguments: tuple[Tensor, ...]) -> None:
            if not (quantizer.training or self._measuring):
                return  # rows that are only scored move nothing
            x = self._real.pick(arguments[0], quantizer.spec)
            low, high = x.aminmax()
            peak = torch.maximum(-low, high).to(torch.float32)
            key = (name, quantizer.depth)
            self._peaks[key] = torch.maximum(self._peaks[key], peak) if key in self._peaks else peak

        return note
