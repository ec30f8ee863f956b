"""What a row that stands for its kind costs who deploys it: how fast it runs, and the plan of its Q/DQ graph."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.job import Feed
from benchmarks.peers.process import run_process
from benchmarks.peers.row import Row
from benchmarks.peers.worker import FLOAT_SIDE, LATENCY_FILE, QUANTIZED_SIDE
from benchmarks.workload import Workload, make_batches
from qat.batches import Batch

_BATCHES = 9  # odd: every second call is timed, and each batch should have its turn
_PLAN_MINUTES = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What was found, and why something was not.

    Attributes:
        latency: milliseconds of processor time by shape, of the float model and of the quantized one, pair by pair;
            empty where they were not taken.
        plan: the figures of the engine; empty where none was built.
        errors: by what was to be measured, the last line of what failed.
    """

    latency: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster than the float model: the median of the pairs, and half their quartiles' distance."""

    times: float
    spread: float
    milliseconds: float


def make_timed(
    batches: Sequence[Batch], shapes: Sequence[tuple[int, int]], *, pad_id: int
) -> dict[str, Sequence[Feed]]:
    """The batches to time, by shape, of the tokens of the rows that are scored.

    Args:
        batches: padded batches of encoded rows.
        shapes: (batch, sequence) pairs.
        pad_id: what pads.
    """
    rows = [
        ids[mask.astype(bool)].tolist()
        for batch in batches
        for ids, mask in zip(batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True)
    ]
    names = list(batches[0].inputs)
    return {
        f"{batch}x{sequence}": make_batches(
            rows, Workload(batch, sequence, pad_id=pad_id), inputs=names, count=_BATCHES
        )
        for batch, sequence in shapes
    }


def measure_costs(row: Row, folder: Path, *, graph: str | None, failure: str, threads: int) -> Costs:
    """What the row's process left of its times, and the plan of its graph, which is built now.

    Args:
        row: for what is to be measured of it.
        folder: the row's own.
        graph: the file in it that TensorRT would take, None where there is none.
        failure: what the row's process failed on after it had answered, empty where it did not.
        threads: of the builder.
    """
    errors: dict[str, str] = {}
    latency: dict[str, Any] = {}
    plan: dict[str, Any] = {}
    if failure:
        errors["latency"] = failure
    elif (folder / LATENCY_FILE).is_file():
        latency = json.loads((folder / LATENCY_FILE).read_text(encoding="utf-8"))
    if "plan" in row.costs and graph is not None:
        out = folder / "plan.json"
        command = [sys.executable, "-m", "benchmarks.peers.plan", str(folder / graph), str(out)]
        error = run_process(command, cwd=folder, threads=threads, minutes=_PLAN_MINUTES)
        if error:
            errors["plan"] = error
        else:
            plan = json.loads(out.read_text(encoding="utf-8"))
    return Costs(latency=latency, plan=plan, errors=errors)


def pair_times(latency: Mapping[str, Sequence[float]]) -> Ratio:
    """The ratio at one shape, pair by pair: what slows one call of a round slows its neighbour too.

    >>> pair_times({"float": [2.0, 8.0, 4.0], "quantized": [1.0, 2.0, 2.0]})
    Ratio(times=2.0, spread=0.5, milliseconds=2.0)
    """
    quantized = np.array(latency[QUANTIZED_SIDE])
    low, middle, high = np.percentile(np.array(latency[FLOAT_SIDE]) / quantized, [25, 50, 75]).tolist()
    return Ratio(middle, (high - low) / 2, float(np.median(quantized)))
