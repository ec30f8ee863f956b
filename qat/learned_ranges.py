"""Learned ranges: activation ranges become parameters while a model trains, each with a step of its own size.

Esser et al. 2020, "Learned step size quantization" (arXiv 1902.08153), with one range a tensor (of a shared layer: a
depth) and the scale rounded to FP16 as everywhere.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from qat.quantizer import FakeQuantizer, calibrated_quantizers, named_quantizers
from qat.range_training import Batch, RangeTraining
from qat.sharding import gather_whole


@contextmanager
def learning_ranges(model: nn.Module) -> Iterator[None]:
    """Inside the block the calibrated activation ranges of ``model`` are parameters; afterwards buffers again.

    Raises:
        RangeError: a quantizer has no range to start from.
    """
    learning: list[FakeQuantizer] = []
    try:
        for _, quantizer in calibrated_quantizers(model):
            quantizer.learn_range()
            learning.append(quantizer)
        yield
    finally:
        for quantizer in learning:
            quantizer.freeze_range()


@dataclass(frozen=True, slots=True)
class LearnedRanges(RangeTraining):
    """Ranges are trained by gradient descent.

    Attributes:
        rate: the share of its range that one step may change at the top of the schedule.
    """

    rate: float = 0.01

    @contextmanager
    def training(self, model: PreTrainedModel, batches: Callable[[], Iterable[Batch]]) -> Iterator[None]:
        """As the base class's.

        Raises:
            RangeError: a quantizer has no range to start from.
        """
        with learning_ranges(model):
            yield

    def arrange(self, optimizer: torch.optim.Optimizer, model: PreTrainedModel) -> None:
        """Takes every range out of the optimizer's groups and gives it one of its own, without decay.

        Adam's step is as long as its rate, whatever the gradient; ranges differ a thousandfold. Each range's rate is
        ``rate`` times the range it starts from, so that one step changes it by that share.
        """
        ranges = {q.amax: q for _, q in named_quantizers(model) if isinstance(q.amax, nn.Parameter)}
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if parameter not in ranges]
        for amax in ranges:
            start = float(gather_whole(amax.detach()).max())
            optimizer.add_param_group({"params": [amax], "weight_decay": 0.0, "lr": self.rate * start})
