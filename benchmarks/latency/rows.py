"""Runners become latency rows: every runner at every shape, side by side in one process, on the same real tokens."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import time_paired
from benchmarks.workload import Feed, Workload, make_batches
from export.runners.base import Runner
from qat.errors import RecipeError

_BATCHES = 9  # odd: every second call is timed, and each batch should have its turn

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LatencyRow:
    """One runner at one shape: percentiles in milliseconds a batch, throughput at the median, and the raw samples."""

    runner: str
    precision: str
    batch: int
    sequence: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    samples_per_s: float
    samples_ms: tuple[float, ...]


def measure_latency(
    runners: Sequence[Runner],
    workloads: Sequence[Workload],
    rows: Sequence[Sequence[int]],
    *,
    seconds: float = 5.0,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Progress = lambda done, workloads: None,
) -> list[LatencyRow]:
    """One row a workload and runner, in that order; within a workload all runners are timed in alternation.

    Each call gets the next of nine batches, and in one round all runners get the same ones.

    Args:
        runners: opened runners; ``infer`` must block until the outputs are there.
        workloads: the shapes.
        rows: encoded texts, unpadded (see :func:`benchmarks.workload.make_batches`).
        seconds: time for one workload, all runners together, warm-up not counted.
        clock: what is read around each call, in nanoseconds (see :func:`benchmarks.timing.time_paired`).
        progress: called before each workload with how many are done, and all of them.

    Raises:
        RecipeError: a runner has a fixed shape and a workload asks for another.
        DataError: a runner has an input that no workload can make, or there are no token rows.
    """
    for workload in workloads:
        for runner in runners:
            _check_shape(runner, workload)
    measured = []
    for done, workload in enumerate(workloads):
        progress(done, len(workloads))
        measured += _measure_cell(runners, workload, rows, seconds, clock)
    return measured


def _measure_cell(
    runners: Sequence[Runner],
    workload: Workload,
    rows: Sequence[Sequence[int]],
    seconds: float,
    clock: Callable[[], int],
) -> list[LatencyRow]:
    names = sorted({name for runner in runners for name in runner.inputs})
    feeds = make_batches(rows, workload, inputs=names, count=_BATCHES)
    calls = {str(place): _bind_feeds(runner, feeds) for place, runner in enumerate(runners)}
    samples = time_paired(calls, seconds=seconds, clock=clock)
    return [
        LatencyRow(
            runner=runner.name,
            precision=runner.precision,
            batch=workload.batch,
            sequence=workload.sequence,
            p50_ms=taken.p50,
            p90_ms=taken.p90,
            p99_ms=taken.p99,
            samples_per_s=workload.batch * 1000 / taken.p50,
            samples_ms=taken.milliseconds,
        )
        for runner, taken in zip(runners, samples.values(), strict=True)
    ]


def _bind_feeds(runner: Runner, feeds: Sequence[Feed]) -> Callable[[], object]:
    """A call without arguments that infers the next feed, over and over."""
    own: list[Mapping[str, NDArray[np.generic]]] = [{name: feed[name] for name in runner.inputs} for feed in feeds]
    turn = cycle(own)
    return lambda: runner.infer(next(turn))


def _check_shape(runner: Runner, workload: Workload) -> None:
    for name, shape in runner.inputs.items():
        asked = workload.shape
        fits = len(shape) == len(asked) and all(
            not isinstance(axis, int) or axis in (-1, size) for axis, size in zip(shape, asked, strict=False)
        )
        if not fits:
            raise RecipeError(
                f"the shape {_write_shape(asked)} for {runner.name} {runner.precision}: its input {name} takes "
                f"{_write_shape(shape)}; ask for that shape with --shapes, or export with dynamic axes"
            )


def _write_shape(shape: Sequence[int | str]) -> str:
    return "x".join(map(str, shape))
