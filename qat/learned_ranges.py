"""Learned ranges: activation ranges become parameters while a model trains, each with a step of its own size.

Esser et al. 2020, "Learned step size quantization" (arXiv 1902.08153), with one range a tensor (of a shared layer: a
depth) and the scale rounded to FP16 as everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from qat.quantizer import FakeQuantizer, named_quantizers


@contextmanager
def learning_ranges(model: nn.Module) -> Iterator[None]:
    """Inside the block the calibrated activation ranges of ``model`` are parameters; afterwards buffers again.

    Raises:
        RangeError: a quantizer has no range to start from.
    """
    learners = [quantizer for _, quantizer in named_quantizers(model) if quantizer.spec.range_source == "calibrated"]
    learning: list[FakeQuantizer] = []
    try:
        for quantizer in learners:
            quantizer.learn_range()
            learning.append(quantizer)
        yield
    finally:
        for quantizer in learning:
            quantizer.freeze_range()


def give_ranges_their_rate(optimizer: torch.optim.Optimizer, model: nn.Module, rate: float) -> None:
    """Takes every learned range out of the optimizer's groups and gives it one of its own, without decay.

    Adam's step is as long as its rate, whatever the gradient; ranges differ a thousandfold. Each range's rate is
    ``rate`` times the range it starts from, so that one step changes it by that share.
    """
    ranges = {q.amax: q for _, q in named_quantizers(model) if isinstance(q.amax, nn.Parameter)}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if parameter not in ranges]
    for amax in ranges:
        optimizer.add_param_group({"params": [amax], "weight_decay": 0.0, "lr": rate * float(amax.detach().max())})
