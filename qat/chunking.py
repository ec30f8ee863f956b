"""Feed-forward blocks run whole where a piece of the tokens will not do: while ranges are found, and in graphs."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_SIZE = "chunk_size_feed_forward"


@contextmanager
def whole_feed_forward(model: nn.Module) -> Iterator[None]:
    """Inside the block no layer cuts its tokens into chunks; afterwards each cuts them as before.

    Chunks (``chunk_size_feed_forward`` of a configuration) save memory and are the same function.
    """
    before = [(module, getattr(module, _SIZE)) for module in model.modules() if getattr(module, _SIZE, 0)]
    for module, _ in before:
        setattr(module, _SIZE, 0)
    try:
        yield
    finally:
        for module, size in before:
            setattr(module, _SIZE, size)
