"""How an artefact is run, beyond what it is: on which device of its runtime, tuned for what, how many at a time."""

import os
from dataclasses import dataclass
from typing import Literal

from qat.errors import BuildError

Goal = Literal["latency", "throughput"]
"""What is tuned for: one batch after the other, or many at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """How to run.

    Attributes:
        provider: ONNX Runtime's execution provider, as ``CUDA`` or ``CUDAExecutionProvider``; None for the CPU's.
        goal: ``latency``, one batch after the other; ``throughput``, many batches at once.
        streams: batches at once where the goal is throughput; 0 for one a processor core.
        threads: of one batch; 0 for the runtime's own choice, or one where several batches run at once.

    Raises:
        BuildError: several streams that have one batch to run.
    """

    provider: str | None = None
    goal: Goal = "latency"
    streams: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        if self.goal == "latency" and self.streams > 1:
            raise BuildError(
                f"{self.streams} streams were asked for with goal 'latency', which runs one batch after the other: "
                "use --goal throughput"
            )

    @property
    def at_once(self) -> int:
        """How many batches run at the same time."""
        return 1 if self.goal == "latency" else self.streams or os.cpu_count() or 1

    @property
    def threads_each(self) -> int:
        """The threads of one batch; 0 for the runtime's own choice."""
        return self.threads or (1 if self.at_once > 1 else 0)


def refuse_provider(running: Running, runtime: str) -> None:
    """Passes where no provider of ONNX Runtime was asked for.

    Raises:
        BuildError: one was, for an artefact that another ``runtime`` runs.
    """
    if running.provider is not None:
        raise BuildError(
            f"--provider {running.provider} is one of ONNX Runtime's, but this artefact runs on {runtime}: leave it "
            "out, or export for rtx, tensorrt or onnxruntime"
        )
