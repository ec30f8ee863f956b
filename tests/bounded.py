"""The bounds that hostile files stay in: so much processor time, so much memory, and not a byte more."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

KILOBYTES = 300_000
SECONDS = 10.0
"""Of this process on all its processors, however busy the machine is."""


@contextmanager
def bounded() -> Iterator[None]:
    """Fails where the block takes longer, or makes the process larger by more."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KILOBYTES
