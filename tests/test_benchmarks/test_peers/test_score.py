"""The paired standard error against the variance of McNemar's table, written out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.peers.score import difference, judge_rows, pack_rows, unpack_rows
from tests.tolerances import PAIRED

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60)


@given(pairs)
def test_the_paired_error_is_that_of_the_table_of_disagreements(rows: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(side) for side in zip(*rows, strict=True))
    n = len(rows)
    gained, lost = sum(a and not b for a, b in rows), sum(b and not a for a, b in rows)
    variance = (gained + lost - (gained - lost) ** 2 / n) / (n - 1)

    found = difference(first, second)

    assert found.points == pytest.approx(100 * (gained - lost) / n, abs=PAIRED.value)
    assert found.error == pytest.approx(100 * math.sqrt(max(variance, 0.0) / n), abs=PAIRED.value)


def test_two_that_agree_on_every_row_differ_by_nothing_at_all() -> None:
    rows = np.array([True, False, True])

    found = difference(rows, rows)

    assert (found.points, found.error, found.clear) == (0.0, 0.0, False)


def test_a_difference_is_clear_beyond_two_errors() -> None:
    right, wrong = np.ones(100, dtype=np.bool_), np.ones(100, dtype=np.bool_)
    wrong[:3] = False
    assert not difference(right, wrong).clear
    wrong[:9] = False
    assert difference(right, wrong).clear


def test_logits_that_are_not_finite_are_wrong_whatever_the_label() -> None:
    logits = np.array([[np.nan, np.nan], [np.inf, 0.0], [1.0, 0.0]])

    assert judge_rows(logits, np.array([0, 0, 0])).tolist() == [False, False, True]


@given(st.lists(st.booleans(), min_size=1))
def test_packed_rows_come_back(rows: list[bool]) -> None:
    assert unpack_rows(pack_rows(np.array(rows))).tolist() == rows
