"""What a peer is given and what it answers, as files both environments can read: JSON and ``.npz``, NumPy alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Feed = dict[str, NDArray[np.int64]]

JOB_FILE, BATCHES_FILE, ANSWER_FILE, LOGITS_FILE = "job.json", "batches.npz", "answer.json", "logits.npz"
_CALIBRATION, _EVALUATION = "calibration", "evaluation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One checkpoint with the batches to calibrate and to score on; labels stay with the host.

    Attributes:
        checkpoint: a Hugging Face folder.
        task: Hugging Face's name of the task.
        graph: the float ONNX graph of the checkpoint, None where it was not made.
        threads: how many threads a peer may use.
        calibration: the batches to calibrate on, each ``(batch, tokens)`` int64 arrays by input name.
        evaluation: the batches to answer.
        timed: the batches to time, by their shape, as in ``8x128``.
        seconds: how long each shape is timed.
    """

    checkpoint: Path
    task: str
    graph: Path | None
    threads: int
    calibration: Sequence[Feed] = field(repr=False)
    evaluation: Sequence[Feed] = field(repr=False)
    timed: Mapping[str, Sequence[Feed]] = field(repr=False, default_factory=dict)
    seconds: float = 0.0

    def write(self, folder: Path) -> None:
        """The job as two files in ``folder``."""
        arrays: dict[str, Any] = {
            f"{part}.{index}.{name}": array
            for part, feeds in {_CALIBRATION: self.calibration, _EVALUATION: self.evaluation, **self.timed}.items()
            for index, feed in enumerate(feeds)
            for name, array in feed.items()
        }
        np.savez(folder / BATCHES_FILE, **arrays)
        values = {
            "checkpoint": str(self.checkpoint),
            "task": self.task,
            "graph": None if self.graph is None else str(self.graph),
            "threads": self.threads,
            "timed": list(self.timed),
            "seconds": self.seconds,
        }
        (folder / JOB_FILE).write_text(json.dumps(values), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The job that ``write`` left in ``folder``."""
        values = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
        feeds: dict[str, dict[int, Feed]] = {part: {} for part in (_CALIBRATION, _EVALUATION, *values["timed"])}
        with np.load(folder / BATCHES_FILE, allow_pickle=False) as arrays:
            for key in arrays.files:
                part, index, name = key.split(".", 2)
                feeds[part].setdefault(int(index), {})[name] = arrays[key]
        batches = {part: [each[index] for index in sorted(each)] for part, each in feeds.items()}
        return cls(
            checkpoint=Path(values["checkpoint"]),
            task=values["task"],
            graph=None if values["graph"] is None else Path(values["graph"]),
            threads=int(values["threads"]),
            calibration=batches.pop(_CALIBRATION),
            evaluation=batches.pop(_EVALUATION),
            timed=batches,
            seconds=float(values["seconds"]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Inside:
    """What is quantized in a model.

    Attributes:
        weights: INT8 weight tensors.
        activations: quantized activation tensors; of a layer that runs several times, one for each range it keeps.
        products: matrix products and convolutions whose two factors are both INT8.
        file_bytes: the size of the file it is deployed from, None where the peer wrote none.
        counted: how the counts were taken: from the ``modules``, the ONNX ``graph``, or what the runtime ``executes``.
        graph: the Q/DQ ONNX graph a TensorRT would take, a file in the row's folder; None where there is none.
    """

    weights: int
    activations: int
    products: int
    file_bytes: int | None
    counted: str
    graph: str | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds on the wall, and seconds of processor time, which a busy machine disturbs far less."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a peer found.

    Attributes:
        inference: a bare pass of the float model over the calibration batches, in the same process.
        quantization: the whole of it, calibration included; None for a float row.
        peak_mb: the largest resident memory of the process.
        inside: what is quantized; None for a float row.
        versions: of the packages that did it.
        logits: of the evaluation batches, in their order, ``(rows, classes)``.
    """

    inference: Spent
    quantization: Spent | None
    peak_mb: int
    inside: Inside | None
    versions: Mapping[str, str]
    logits: NDArray[np.float32] = field(repr=False)

    def write(self, folder: Path) -> None:
        """The answer as two files in ``folder``; the JSON file last, so that it is there only with the other."""
        np.savez(folder / LOGITS_FILE, logits=self.logits)
        (folder / ANSWER_FILE).write_text(json.dumps(self.list_facts()), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The answer that ``write`` left in ``folder``."""
        values = json.loads((folder / ANSWER_FILE).read_text(encoding="utf-8"))
        spent, inside = values.pop("quantization"), values.pop("inside")
        with np.load(folder / LOGITS_FILE, allow_pickle=False) as arrays:
            logits = arrays["logits"]
        return cls(
            inference=Spent(**values.pop("inference")),
            quantization=None if spent is None else Spent(**spent),
            inside=None if inside is None else Inside(**inside),
            logits=logits,
            **values,
        )

    def list_facts(self) -> dict[str, Any]:
        """All but the logits, as JSON values."""
        return {
            "inference": asdict(self.inference),
            "quantization": None if self.quantization is None else asdict(self.quantization),
            "peak_mb": self.peak_mb,
            "inside": None if self.inside is None else asdict(self.inside),
            "versions": dict(self.versions),
        }
