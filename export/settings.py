"""Settings of the export stage, ``--set export.``."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class ExportSettings(BaseModel):
    """What an export may be asked beyond its target and precision, frozen.

    Attributes:
        embeddings: ``int8`` stores embedding tables in INT8 with a scale a row: a file half as large, and the one
            export that changes numbers, by at most half a step of each embedding.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    embeddings: Literal["float", "int8"] = "float"
