"""One predictor asked by several threads: every answer beside the one given alone, and the memory of the process."""

import random
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from export.predict import Predictor

THREADS = 4
_WARM = 0.1
"""The share of the samples after which memory is to stay as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What came of it.

    Attributes:
        requests: how many were answered.
        texts: in all of them.
        wrong: the requests whose answer is not the one given alone, bit by bit.
        memory_mb: resident, once a second.
    """

    requests: int
    texts: int
    wrong: int
    memory_mb: tuple[float, ...]

    @property
    def settled_mb(self) -> float:
        """The memory after the warm-up."""
        return self.memory_mb[self._warm]

    @property
    def growth(self) -> float:
        """How far memory rose above that, as a share of it."""
        return max(self.memory_mb[self._warm :]) / self.settled_mb - 1

    @property
    def _warm(self) -> int:
        return int(_WARM * len(self.memory_mb))


def make_requests(texts: Sequence[str]) -> list[list[str]]:
    """Requests of 1 to 32 of the texts, some of them longer than any model takes."""
    chance = random.Random(0)
    requests = [chance.choices(texts, k=size) for size in (1, 1, 1, 2, 3, 5, 8, 16, 32)]
    return [*requests, [" ".join(texts)], [texts[0], " ".join(texts), texts[1]]]


def serve(predictor: Predictor, requests: Sequence[Sequence[str]], *, go_on: Callable[[int, float], bool]) -> Served:
    """What came of ``THREADS`` threads that ask the open ``predictor`` the same requests, round after round.

    Args:
        predictor: is asked every request once before, alone.
        requests: texts each; every thread and round has an order of its own.
        go_on: whether a thread that did so many rounds, in so many seconds, begins another.
    """
    alone = [predictor.predict(texts) for texts in requests]

    started = time.monotonic()

    def ask(number: int) -> tuple[int, int]:
        chance, done, wrong = random.Random(number), 0, 0
        while go_on(done, time.monotonic() - started):
            for place in chance.sample(range(len(requests)), len(requests)):
                wrong += predictor.predict(requests[place]) != alone[place]
            done += 1
        return done, wrong

    memory = [read_memory_mb()]
    with ThreadPoolExecutor(THREADS) as pool:
        asking = [pool.submit(ask, number) for number in range(THREADS)]
        while wait(asking, timeout=1.0, return_when=FIRST_EXCEPTION).not_done:
            memory.append(read_memory_mb())
        found = [each.result() for each in asking]
    rounds = sum(done for done, _ in found)
    return Served(
        requests=rounds * len(requests),
        texts=rounds * sum(map(len, requests)),
        wrong=sum(wrong for _, wrong in found),
        memory_mb=(*memory, read_memory_mb()),
    )


def read_memory_mb() -> float:
    """The resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6
