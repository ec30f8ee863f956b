"""The settings of the calibration stage."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

BEST = "best"
"""Searches on a few rows, starting from the histograms (``calibration.search``)."""

ALL = "all"
"""Finds and keeps the ranges of every method; the model gets those of ``best``."""


class CalibrationSettings(BaseModel):
    """How ranges are found, frozen.

    Attributes:
        method: ``best``, one of ``calibration.ranges``, or ``all``.
        percentile: the share of magnitudes, in percent, that ``percentile`` keeps.
        samples: how many rows are read.
        search_rows: how many of them ``best`` runs its search on.
        depths: ``each`` pass over a shared layer has its own range, or all of them the widest (``merged``), as tools do
            that know one range a module.
        equalize: whether outlier channels of the residual stream get units of their own first, where that helps
            (``calibration.equalize``).
        split_outliers: whether ``qdq calibrate`` and ``qdq run`` split outlier neurons before they wrap a model with
            per-tensor weights (``qat.split``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: str = BEST
    percentile: float = Field(default=99.99, gt=50.0, le=100.0, strict=False)
    samples: int = Field(default=512, ge=1)
    search_rows: int = Field(default=24, ge=1)
    depths: Literal["each", "merged"] = "each"
    equalize: bool = True
    split_outliers: bool = True

    @property
    def chosen(self) -> str:
        """The method whose ranges the model gets."""
        return BEST if self.method == ALL else self.method
