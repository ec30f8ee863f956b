"""The settings of the calibration stage."""

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_METHOD = "max"
ALL = "all"
"""Finds and keeps the ranges of every method; the model gets those of the default one."""


class CalibrationSettings(BaseModel):
    """How ranges are found, frozen.

    Attributes:
        method: one of ``calibration.ranges``, or ``all``.
        percentile: the share of magnitudes, in percent, that ``percentile`` keeps.
        samples: how many rows are read.
        split_outliers: whether ``qdq calibrate`` and ``qdq run`` split outlier neurons before they wrap a model with
            per-tensor weights (``qat.split``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: str = DEFAULT_METHOD
    percentile: float = Field(default=99.99, gt=50.0, le=100.0, strict=False)
    samples: int = Field(default=512, ge=1)
    split_outliers: bool = True

    @property
    def chosen(self) -> str:
        """The method whose ranges the model gets."""
        return DEFAULT_METHOD if self.method == ALL else self.method
