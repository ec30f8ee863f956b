"""The order of training rows: full batches of like length, every row once a pass, shuffled by a seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qat.row_order import order_rows

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=300).map(lambda found: np.array(found, dtype=np.int64))


@given(lengths=lengths, batch_size=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_pass_meets_every_row_once(lengths: np.ndarray, batch_size: int, seed: int) -> None:
    batches = 2 * (len(lengths) // batch_size + 1)
    order = order_rows(lengths, batch_size=batch_size, batches=batches, seed=seed)
    assert len(order) == batches * batch_size
    count = len(lengths)
    for start in range(0, len(order) - count + 1, count):
        assert sorted(order[start : start + count]) == list(range(count))


def test_batches_pad_little_and_come_in_no_order_of_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 4000)
    order = order_rows(lengths, batch_size=32, batches=125, seed=0)
    batches = lengths[order].reshape(-1, 32)
    padded = batches.max(axis=1) * 32
    assert lengths.sum() / padded.sum() > 0.95
    plain = lengths.reshape(-1, 32).max(axis=1) * 32
    assert lengths.sum() / plain.sum() < 0.6, "the control: rows as they come"
    means = batches.mean(axis=1)
    assert abs(float(np.corrcoef(means[:-1], means[1:])[0, 1])) < 0.25


@pytest.mark.parametrize("seed", [0, 7])
def test_the_seed_decides(seed: int) -> None:
    lengths = np.arange(1, 101)
    first, again, other = (order_rows(lengths, batch_size=8, batches=20, seed=s) for s in (seed, seed, seed + 1))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()
    assert first[:100].tolist() != first[100:].tolist() + other[:0].tolist()
