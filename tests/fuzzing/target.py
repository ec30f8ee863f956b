"""What a fuzzer drives: one parser of ours, good inputs of it, and what one input does."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import Handler, LogRecord, getLogger
from pathlib import Path

from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st

from qat.errors import QDQError
from tests.mutations import BATCH, change_bytes

Mutation = Callable[[Sequence[bytes], int], Iterator[bytes]]
"""From good inputs and a seed to a batch of damaged ones."""

MANY, SOME = 100_000, 5_000
"""The inputs of a long run: of what is parsed by us alone, and of what is slow or mostly another library's."""

_QUICK = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class FuzzTarget:
    """One parser.

    Attributes:
        name: what a fuzzer is told to run it.
        corpus: its good inputs, made when they are needed.
        take: reads one input, in a folder of its own; whatever it raises is a fault.
        mutations: how inputs are damaged.
        inputs: how many a long run takes.
        quick: the batches of each mutation in the ordinary suite.
    """

    name: str
    corpus: Callable[[], Sequence[bytes]]
    take: Callable[[bytes, Path], None]
    mutations: tuple[Mutation, ...] = field(default=(change_bytes,))
    inputs: int = MANY
    quick: int = _QUICK

    def feed(self, data: bytes, folder: Path) -> None:
        """Takes one input, and minds that nobody logs a traceback meanwhile."""
        with _no_tracebacks():
            self.take(data, folder)


def in_parts(
    name: str,
    corpus: Callable[[], Sequence[bytes]],
    take: Callable[[bytes, Path], None],
    change: Mutation,
    *,
    inputs: int = MANY,
    quick: int = _QUICK,
) -> FuzzTarget:
    """A parser of inputs that have parts: they are damaged byte by byte, and part by part by ``change``."""
    return FuzzTarget(name=name, corpus=corpus, take=take, mutations=(change_bytes, change), inputs=inputs, quick=quick)


class _Tracebacks(Handler):
    """What was logged with a traceback, which a user would see."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: LogRecord) -> None:
        if record.exc_info:
            self.found.append(record.getMessage() if record.args else str(record.msg))


@contextmanager
def _no_tracebacks() -> Iterator[None]:
    handler, root = _Tracebacks(), getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
    assert not handler.found


def survive(read: Callable[..., object], *given: object) -> object:
    """What ``read`` gives; None where it refuses in words, by an error of ours."""
    try:
        return read(*given)
    except QDQError:
        return None


def feed_batches(target: FuzzTarget, folder: Path) -> None:
    """Feeds batches of damaged inputs: a few in the suite, ``target.inputs`` of them when it soaks."""
    corpus = target.corpus()
    soaks = settings.get_current_profile_name() == "soak"
    examples = -(-target.inputs // (BATCH * len(target.mutations))) if soaks else target.quick

    @settings(max_examples=examples, phases=(Phase.generate,))  # a smaller seed is no smaller input
    @given(st.integers(0, 2**64))
    def feed(seed: int) -> None:
        for mutation in target.mutations:
            for data in mutation(corpus, seed):
                try:
                    target.feed(data, folder)
                except Exception:
                    note(f"the input was {data!r}")
                    raise

    feed()
