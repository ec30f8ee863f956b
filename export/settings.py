"""Settings of the export stage, ``--set export.``."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

Input = Literal["input_ids", "attention_mask", "token_type_ids", "position_ids"]

_SHAPE = re.compile(r"([0-9]+)[xX]([0-9]+)")


class ExportSettings(BaseModel):
    """What an export may be asked beyond its target and precision, frozen.

    Attributes:
        embeddings: ``int8`` stores embedding tables in INT8 with a scale a row: a file half as large, and the one
            export that changes numbers, by at most half a step of each embedding.
        shape: (batch, sequence) of a graph for this one shape, written ``8x128``; None for one that takes any.
        inputs: of the graph; None for those of the rows it was calibrated on.
        data: rows of the model's task, to measure before an export in FP16 which values come near what FP16 holds; the
            nodes that touch those stay in FP32. None: nothing is measured.
        rows: how many of them.
        margin: how many times larger than on these rows a value may get.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    embeddings: Literal["float", "int8"] = "float"
    shape: tuple[PositiveInt, PositiveInt] | None = Field(default=None, strict=False)
    inputs: tuple[Input, ...] | None = Field(default=None, strict=False)
    data: Path | None = Field(default=None, strict=False)
    rows: int = Field(default=64, ge=1)
    margin: float = Field(default=4.0, ge=1, strict=False)

    @model_validator(mode="after")
    def _require_inputs(self) -> Self:
        if self.inputs is not None and not {"input_ids", "attention_mask"} <= {*self.inputs}:
            raise ValueError(
                f"inputs {', '.join(self.inputs)} lack input_ids or attention_mask, which every graph takes"
            )
        if self.data is not None and "position_ids" in (self.inputs or ()):
            raise ValueError("data has no position_ids to measure with: leave export.data or that input out")
        return self

    @field_validator("shape", mode="before")
    @classmethod
    def _read_shape(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        sizes = _SHAPE.fullmatch(given.strip())
        if sizes is None:
            raise ValueError("expected BATCHxSEQUENCE, two whole numbers above 0, as in 8x128")
        return int(sizes[1]), int(sizes[2])
