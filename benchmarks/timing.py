"""Wall-clock times of several callables, taken in alternation so that a noisy machine is unfair to none of them."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from qat.errors import RecipeError

_FEWEST_ROUNDS = 4

CLOCKS: Mapping[str, Callable[[], int]] = {"wall": time.perf_counter_ns, "processor": time.process_time_ns}
"""Nanoseconds on the wall, and of this process on all its processors, which a busy machine disturbs far less."""


@dataclass(frozen=True)
class Samples:
    """Times of one callable in milliseconds, in the order they were taken.

    Percentiles are NumPy's: sorted, the q-th lies at position ``q / 100 * (n - 1)``, and between two samples it is
    interpolated linearly.

    >>> samples = Samples((4.0, 1.0, 2.0, 3.0, 14.0))
    >>> samples.p50, samples.p90
    (3.0, 10.0)
    """

    milliseconds: tuple[float, ...]

    @property
    def p50(self) -> float:
        """The median, in milliseconds."""
        return self.percentile(50)

    @property
    def p90(self) -> float:
        """The time that nine in ten samples stay below, in milliseconds."""
        return self.percentile(90)

    @property
    def p99(self) -> float:
        """The time that 99 in 100 samples stay below, in milliseconds."""
        return self.percentile(99)

    def percentile(self, q: float) -> float:
        """The ``q``-th percentile, ``0 <= q <= 100``, in milliseconds."""
        return float(np.percentile(self.milliseconds, q))


def time_paired(
    callables: Mapping[str, Callable[[], object]],
    *,
    seconds: float | None = None,
    repeats: int | None = None,
    warmup: int = 3,
    settle: int = 1,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Samples]:
    """The samples of each callable, the same number of each, taken round by round: A B, B A, A B, B A, ...

    Every round calls each of them once, and every second round in reverse, so that a drift of the machine (clock,
    heat, neighbours) falls on all alike. Where there are several, each runs ``settle`` times untimed before it is
    timed: the threads of the one before go on spinning for a while, and would be counted. The garbage collector rests
    meanwhile. A callable that starts work elsewhere must wait for it before it returns.

    Args:
        callables: what is timed, by name.
        seconds: go on for this long, to the end of a pair of rounds, and for at least 4 rounds.
        repeats: or run this many rounds.
        warmup: rounds that are run first and not kept.
        settle: untimed calls before each timed one; none where a single callable is timed.
        clock: what is read before and after each call, in nanoseconds.

    Raises:
        RecipeError: both or neither of ``seconds`` and ``repeats`` are given, or there is nothing to time.
    """
    if (seconds is None) == (repeats is None):
        raise RecipeError(
            f"time_paired with seconds={seconds} and repeats={repeats}: expected one of the two; give only one"
        )
    if not callables:
        raise RecipeError("time_paired with no callables: expected at least one; name what to time")
    taken: dict[str, list[float]] = {name: [] for name in callables}
    untimed = settle if len(callables) > 1 else 0
    with _rested_collector():
        for _ in range(warmup):
            for call in callables.values():
                call()
        for names in _plan_rounds(list(callables), seconds, repeats):
            for name in names:
                for _ in range(untimed):
                    callables[name]()
                started = clock()
                callables[name]()
                taken[name].append((clock() - started) / 1e6)
    return {name: Samples(tuple(times)) for name, times in taken.items()}


def _plan_rounds(names: list[str], seconds: float | None, repeats: int | None) -> Iterator[list[str]]:
    """The order of each round; where ``seconds`` bounds them, the clock is read after every second one."""
    end = time.perf_counter() + (seconds or 0.0)
    done = 0
    while done < repeats if repeats is not None else done < _FEWEST_ROUNDS or done % 2 or time.perf_counter() < end:
        yield names if done % 2 == 0 else names[::-1]
        done += 1


@contextmanager
def _rested_collector() -> Iterator[None]:
    gc.collect()
    active = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if active:
            gc.enable()
