"""One step of training a model: forward, backward, AdamW.

Nothing here may import the rest of the project: a peer's environment takes its steps with this file too.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

LEARNING_RATE = 2e-6

Batch = Mapping[str, Tensor]


class TrainingStep:
    """One optimizer step after the other: each call takes the next batch, round and round.

    AdamW is the fused one, which transformers' Trainer takes. Dropout is off, as in ``qat.finetune``: with it the float
    step would be dearer and every ratio smaller.

    Args:
        model: is trained in place; on a GPU if it lies on one.
        batches: keyword arguments of its ``forward``, with labels.
        around: makes the context every step runs in.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.model = nn.Module.train(model)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
        self._batches = itertools.cycle(batches)
        self._around = around

    def __call__(self) -> float:
        """The loss of one forward pass, whose backward pass and optimizer step are done as well."""
        with self._around():
            output: Any = self.model(**next(self._batches))
            output.loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(output.loss.detach())  # waits for a GPU
