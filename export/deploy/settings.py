"""How an artefact is to be served, as the user says it."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from export.engine_spec import parse_shapes

Backend = Literal["onnxruntime", "tensorrt"]
Provider = Literal["cpu", "cuda", "tensorrt"]


class DeploySettings(BaseModel):
    """How a server runs a model, frozen.

    Attributes:
        backend: Triton's; None for the one that runs what is given.
        provider: what ONNX Runtime computes on; None for the one the graph was lowered for.
        instances: of the model, on each GPU or on the CPU.
        max_batch: rows the server puts together; None for the largest of ``shapes``.
        shapes: BATCHxSEQUENCE, smallest, usual, largest: what the server runs before it answers; None for the engine's
            own, or ``1x16,8x64,32x128`` as far as the model goes.
        queue_delay: microseconds a request waits for others to share a batch with.

    Raises:
        BuildError: shapes that make no sense.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    backend: Backend | None = None
    provider: Provider | None = None
    instances: int = Field(default=1, ge=1)
    max_batch: int | None = Field(default=None, ge=1)
    shapes: str | None = None
    queue_delay: int = Field(default=1000, ge=0)

    @model_validator(mode="after")
    def _require_shapes(self) -> Self:
        if self.shapes is not None:
            parse_shapes(self.shapes)
        return self
