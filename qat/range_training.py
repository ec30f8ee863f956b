"""What happens to activation ranges while a model trains: they stay, follow what they see, or are learned."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

Batch = Mapping[str, Tensor]
RangeMode = Literal["frozen", "reestimated", "learned"]


class RangeTraining:
    """Ranges stay as calibration found them; the other ways are subclasses, one file each."""

    @contextmanager
    def training(self, model: PreTrainedModel, batches: Callable[[], Iterable[Batch]]) -> Iterator[None]:
        """Inside the block ``model`` trains.

        Args:
            model: as training starts from it, also where a run is resumed.
            batches: gives a few batches of the training rows, the same at every call.
        """
        yield

    def arrange(self, optimizer: torch.optim.Optimizer, model: PreTrainedModel) -> None:
        """Gives ranges that are parameters their place in a new optimizer."""

    def begin(self, batch: Batch) -> None:
        """Takes note of the batch that is about to run forward."""

    def step(self, done: int, steps: int) -> None:
        """Moves the ranges after ``done`` of ``steps`` optimizer steps."""
