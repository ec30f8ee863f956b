"""Observers: what a batch of real activations adds to a range; constant memory, one observer a range.

A new observer is a class with ``update`` and ``amax`` here (or in its own file) and one line in ``OBSERVERS``.
"""

from collections.abc import Callable
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from calibration.histogram import Histogram

Method = Literal["max", "percentile"]


class CalibrationSettings(BaseModel):
    """How ranges are found, frozen.

    Attributes:
        method: ``max`` keeps everything; ``percentile`` clips the largest magnitudes.
        percentile: the share of magnitudes, in percent, that ``percentile`` keeps.
        samples: how many rows are read.
        split_outliers: whether ``qdq calibrate`` and ``qdq run`` split outlier neurons before they wrap a model with
            per-tensor weights (``qat.split``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: Method = "max"
    percentile: float = Field(default=99.99, gt=50.0, le=100.0, strict=False)
    samples: int = Field(default=512, ge=1)
    split_outliers: bool = True


class Observer(Protocol):
    """Sees magnitudes, answers with a range."""

    def update(self, magnitudes: Tensor) -> None:
        """Takes in one batch: non-negative, finite, any shape, never empty."""
        ...

    def amax(self) -> float:
        """The range so far."""
        ...


class MaxObserver:
    """The largest magnitude seen.

    >>> import torch
    >>> observer = MaxObserver()
    >>> observer.update(torch.tensor([1.0, 3.0])); observer.update(torch.tensor([2.0])); observer.amax()
    3.0
    """

    def __init__(self) -> None:
        self._amax = 0.0

    def update(self, magnitudes: Tensor) -> None:
        """Keeps the larger of what it has and what it sees."""
        self._amax = max(self._amax, float(magnitudes.max()))

    def amax(self) -> float:
        """The largest magnitude."""
        return self._amax


class PercentileObserver:
    """The magnitude below which ``percentile`` percent of those seen lie, from a histogram."""

    def __init__(self, percentile: float) -> None:
        self._percentile = percentile
        self._histogram = Histogram()

    def update(self, magnitudes: Tensor) -> None:
        """Counts the magnitudes."""
        self._histogram.update(magnitudes)

    def amax(self) -> float:
        """The percentile, at most one bin too large."""
        return self._histogram.percentile(self._percentile)


OBSERVERS: dict[Method, Callable[[CalibrationSettings], Observer]] = {
    "max": lambda settings: MaxObserver(),
    "percentile": lambda settings: PercentileObserver(settings.percentile),
}
"""The observer of each method."""


def real_tokens(x: Tensor, mask: Tensor | None, token_axis: int) -> Tensor:
    """The magnitudes of ``x`` at real tokens, as ``(tokens, values)``; all of them without a mask.

    Args:
        x: an activation, batch first.
        mask: ``(batch, tokens)``, non-zero where a token is real.
        token_axis: where ``x`` has its tokens.

    >>> import torch
    >>> real_tokens(torch.tensor([[[1.0], [-9.0]]]), torch.tensor([[1, 0]]), 1)
    tensor([[1.]])
    """
    rows = x.detach().movedim(token_axis, 1)
    if mask is None:
        return rows.reshape(-1, 1).abs()
    return rows[mask.bool()].flatten(1).abs()
