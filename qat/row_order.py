"""The order rows are trained on in: shuffled, with rows of like length in one batch, so that little is padding."""

import numpy as np
from numpy.typing import NDArray

_POOL = 50
"""Batches that are sorted together: more pad less, and mix less."""


def order_rows(lengths: NDArray[np.int64], *, batch_size: int, batches: int, seed: int) -> NDArray[np.int64]:
    """Row numbers for ``batches`` full batches, pass after pass over the rows, each pass in an order of its own.

    Args:
        lengths: tokens of each row, at least one row.
        batch_size: rows a batch.
        batches: how many.
        seed: the same one gives the same order.

    >>> order = order_rows(np.array([9, 1, 8, 2]), batch_size=2, batches=2, seed=0)
    >>> sorted(sorted(pair.tolist()) for pair in order.reshape(2, 2))
    [[0, 2], [1, 3]]
    """
    random = np.random.default_rng(seed)
    needed = batch_size * batches
    passes = [_order_pass(lengths, batch_size, random) for _ in range(-(-needed // len(lengths)))]
    return np.concatenate(passes)[:needed]


def _order_pass(lengths: NDArray[np.int64], batch_size: int, random: np.random.Generator) -> NDArray[np.int64]:
    order = random.permutation(len(lengths))
    size = _POOL * batch_size
    pools = [order[start : start + size] for start in range(0, len(order), size)]
    ordered = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    whole = len(ordered) // batch_size * batch_size
    batches = random.permutation(ordered[:whole].reshape(-1, batch_size))
    return np.concatenate([batches.reshape(-1), ordered[whole:]]).astype(np.int64)
