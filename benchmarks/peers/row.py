"""What a peer is: how its model is opened and quantized, and which rows of the table it fills."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.job import Feed, Inside, Job

Standing = Literal["float", "as shipped", "best", "matched", "nearest"]
Placement = Literal["float", "own", "linear", "tensorrt", "qdqbert"]

Cost = Literal["latency", "plan"]

FLOAT = "float"
"""The recipe of a row that is not quantized."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of the table.

    Attributes:
        recipe: what the peer's worker calls it, unique within the peer.
        standing: ``as shipped`` with the peer's defaults, ``best`` as its documentation advises for transformers,
            ``matched`` with one of our placements; only matched rows are compared.
        placement: which tensors are quantized: the recipe of ours it matches, or the peer's own choice.
        weights: whether a weight has one range or one for each output channel.
        note: what a reader must know, such as where the recipe is documented.
        cannot: why the peer cannot run this row at all; empty where it can.
        costs: what else is measured of it, being one that stands for its kind: how fast what came out runs, and what
            TensorRT for RTX makes of its graph.
    """

    recipe: str
    standing: Standing
    placement: Placement
    weights: Literal["per_channel", "per_tensor", "-"] = "per_channel"
    note: str = ""
    cannot: str = ""
    costs: tuple[Cost, ...] = ()


class PeerModel(Protocol):
    """A model in the hands of a peer: float first, then quantized."""

    def infer(self, feed: Feed) -> NDArray[np.float32]:
        """The logits of one batch, ``(batch, classes)``."""
        ...

    def quantize(self, recipe: str, batches: Iterable[Feed]) -> None:
        """Quantizes in place, calibrated on ``batches``; this is what is timed."""
        ...

    def describe(self) -> Inside:
        """What was really quantized; asked after the timing."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A quantizer that takes part.

    Attributes:
        name: unique; the name of its environment too, unless it shares another's.
        title: what tables call it.
        requirements: what its environment installs, without versions; empty for our own environment.
        packages: whose versions are recorded.
        needs_graph: whether it starts from the float ONNX graph instead of the checkpoint.
        rows: its rows.
        open: the float model of a job, in the peer's environment, with a folder for its files.
        environment: the peer whose environment it works in; empty for its own.
        snippets: what a user writes for it, files in ``snippets/``; the shortest one last.
    """

    name: str
    title: str
    requirements: tuple[str, ...]
    packages: tuple[str, ...]
    needs_graph: bool
    rows: tuple[Row, ...]
    open: Callable[[Job, Path], PeerModel] = field(repr=False)
    environment: str = ""
    snippets: tuple[str, ...] = ()

    @property
    def home(self) -> str:
        """The name of its environment and of its file of pinned versions."""
        return self.environment or self.name

    @property
    def by_recipe(self) -> Mapping[str, Row]:
        """The rows by recipe."""
        return {row.recipe: row for row in self.rows}
