"""Paired timing alternates, keeps every sample, and its percentiles are NumPy's."""

import gc
import time
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.timing import Samples, time_paired
from qat.errors import RecipeError

MILLISECONDS = st.floats(1e-3, 1e5)


@given(times=st.lists(MILLISECONDS, min_size=1, max_size=300))
def test_percentiles_are_numpys(times: list[float]) -> None:
    samples = Samples(tuple(times))

    assert [samples.p50, samples.p90, samples.p99] == np.percentile(times, [50, 90, 99]).tolist()


@given(times=st.lists(MILLISECONDS, min_size=101, max_size=101))
def test_percentiles_of_101_samples_are_those_at_their_places(times: list[float]) -> None:
    samples = Samples(tuple(times))

    assert [samples.p50, samples.p90, samples.p99] == [sorted(times)[place] for place in (50, 90, 99)]


@given(times=st.lists(st.integers(0, 10_000), min_size=2, max_size=60))
def test_the_median_is_the_middle(times: list[int]) -> None:
    low, high = sorted(times)[(len(times) - 1) // 2], sorted(times)[len(times) // 2]

    assert Fraction(Samples(tuple(map(float, times))).p50) == Fraction(low + high, 2)


@pytest.mark.parametrize(
    ("names", "settle", "order"),
    [
        ("AB", 0, "AB AB BA AB BA"),
        ("ABC", 0, "ABC ABC CBA ABC CBA"),
        ("A", 0, "A A A A A"),
        ("AB", 1, "AB aAbB bBaA aAbB bBaA"),
        ("AB", 2, "AB aaAbbB bbBaaA aaAbbB bbBaaA"),
        ("A", 1, "A A A A A"),
    ],
)
def test_rounds_alternate_after_the_warm_up_and_settle_before_each_sample(names: str, settle: int, order: str) -> None:
    called: list[str] = []
    calls = {name: partial(called.append, name) for name in names}
    samples = time_paired(calls, repeats=4, warmup=1, settle=settle)

    assert "".join(called) == order.replace(" ", "").upper()
    assert {name: len(taken.milliseconds) for name, taken in samples.items()} == dict.fromkeys(names, 4)


def test_samples_are_milliseconds_of_each_callable() -> None:
    samples = time_paired({"long": lambda: time.sleep(0.02), "short": lambda: None}, repeats=6, warmup=0)

    assert min(samples["long"].milliseconds) >= 20
    assert samples["short"].p50 < 20


def test_seconds_end_on_a_whole_pair_of_rounds() -> None:
    started = time.perf_counter()
    samples = time_paired({"a": lambda: time.sleep(0.01), "b": lambda: None}, seconds=0.2, warmup=0)
    spent = time.perf_counter() - started
    taken = len(samples["a"].milliseconds)

    assert spent >= 0.2
    assert taken % 2 == 0
    assert 4 <= taken <= 22


def test_a_slow_callable_still_gets_four_rounds() -> None:
    samples = time_paired({"slow": lambda: time.sleep(0.01)}, seconds=0.001, warmup=0)

    assert len(samples["slow"].milliseconds) == 4


@pytest.mark.parametrize("active", [True, False])
def test_the_garbage_collector_rests_and_comes_back_as_it_was(active: bool) -> None:
    seen: list[bool] = []
    before = gc.isenabled()
    try:
        (gc.enable if active else gc.disable)()
        time_paired({"a": lambda: seen.append(gc.isenabled())}, repeats=2)
        after = gc.isenabled()
    finally:
        (gc.enable if before else gc.disable)()

    assert set(seen) == {False}
    assert after is active


def test_an_error_inside_comes_out_and_the_collector_is_back() -> None:
    with pytest.raises(ZeroDivisionError):
        time_paired({"a": lambda: 1 // 0}, repeats=1)

    assert gc.isenabled()


@pytest.mark.parametrize(("seconds", "repeats"), [(None, None), (1.0, 3)])
def test_exactly_one_budget_is_expected(seconds: float | None, repeats: int | None) -> None:
    with pytest.raises(RecipeError) as raised:
        time_paired({"a": lambda: None}, seconds=seconds, repeats=repeats)

    assert str(raised.value) == (
        f"time_paired with seconds={seconds} and repeats={repeats}: expected one of the two; give only one"
    )


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(RecipeError) as raised:
        time_paired({}, repeats=1)

    assert str(raised.value) == "time_paired with no callables: expected at least one; name what to time"
