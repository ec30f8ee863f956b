"""Workloads hold real tokens and real proportions of length, whatever rows and shape they are made from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.workload import KNOWN_INPUTS, Workload, make_batches, parse_shapes_list, rescale_lengths
from qat.errors import DataError, RecipeError

PAD = 0
ROWS = st.lists(st.lists(st.integers(1, 30_000), min_size=1, max_size=40), min_size=1, max_size=12)
WORKLOADS = st.builds(
    Workload, st.integers(1, 5), st.integers(1, 64), st.just(PAD), st.one_of(st.none(), st.integers(1, 3))
)


@given(rows=ROWS, workload=WORKLOADS, seed=st.integers(0, 9))
def test_a_batch_holds_real_tokens_then_padding(rows: list[list[int]], workload: Workload, seed: int) -> None:
    real = {token for row in rows for token in row}

    for feed in make_batches(rows, workload, count=2, seed=seed):
        assert tuple(feed) == KNOWN_INPUTS
        assert {(array.shape, array.dtype) for array in feed.values()} == {(workload.shape, np.dtype(np.int64))}
        ids = feed["input_ids"].reshape(-1, workload.sequence)
        lengths = feed["attention_mask"].reshape(-1, workload.sequence).sum(axis=1)
        assert lengths.max() == workload.sequence
        assert lengths.min() >= 1
        for row, length in zip(ids, lengths, strict=True):
            assert set(row[:length].tolist()) <= real
            assert set(row[length:].tolist()) <= {PAD}
        expected_mask = np.arange(workload.sequence) < lengths[:, None]
        assert np.array_equal(feed["attention_mask"].reshape(-1, workload.sequence), expected_mask)
        assert not feed["token_type_ids"].any()


@given(rows=ROWS, workload=WORKLOADS)
def test_rows_keep_the_tokens_at_their_ends(rows: list[list[int]], workload: Workload) -> None:
    bracketed = [[101, *row, 102] for row in rows]
    (feed,) = make_batches(bracketed, workload, count=1)
    ids = feed["input_ids"].reshape(-1, workload.sequence)
    lengths = feed["attention_mask"].reshape(-1, workload.sequence).sum(axis=1)

    assert {row[0] for row in ids.tolist()} == {101}
    assert {row[length - 1] for row, length in zip(ids.tolist(), lengths, strict=True)} <= {102, 101}
    assert all(row[length - 1] == 102 for row, length in zip(ids.tolist(), lengths, strict=True) if length > 1)


@given(
    lengths=st.lists(st.integers(1, 512), min_size=1, max_size=32),
    sequence=st.integers(1, 512),
)
def test_lengths_keep_their_proportions(lengths: list[int], sequence: int) -> None:
    got = rescale_lengths(np.array(lengths), sequence)

    assert got.max() == sequence
    assert all(
        abs(int(new) * max(lengths) - old * sequence) <= max(lengths) for new, old in zip(got, lengths, strict=True)
    )


def test_the_seed_decides_and_batches_differ() -> None:
    rows = [[101, *range(1000, 1000 + length), 102] for length in (4, 9, 17, 30)]
    first = make_batches(rows, Workload(4, 32), seed=1)
    again = make_batches(rows, Workload(4, 32), seed=1)
    other = make_batches(rows, Workload(4, 32), seed=2)

    assert all(np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0]["input_ids"], other[0]["input_ids"])
    assert not np.array_equal(first[0]["input_ids"], first[1]["input_ids"])


def test_only_the_inputs_asked_for_are_made() -> None:
    (feed,) = make_batches([[101, 5, 102]], Workload(2, 8), inputs=["attention_mask", "input_ids"], count=1)

    assert sorted(feed) == ["attention_mask", "input_ids"]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [("1x128", ((1, 128),)), (" 1x16, 8X128 ,32x384", ((1, 16), (8, 128), (32, 384))), ("8x128,8x128", ((8, 128),))],
)
def test_shapes_are_parsed(text: str, pairs: tuple[tuple[int, int], ...]) -> None:
    assert parse_shapes_list(text) == pairs


@pytest.mark.parametrize("item", ["128", "1x", "0x128", "1x128x2", "-1x4", "axb", ""])
def test_a_wrong_shape_is_named(item: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_shapes_list(f"8x128,{item}")

    assert str(raised.value) == (
        f"the shape {item!r} in --shapes '8x128,{item}': expected BATCHxSEQUENCE, two whole numbers above 0; "
        "write it like 1x128,8x128"
    )


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(RecipeError) as raised:
        Workload(8, 0)

    assert str(raised.value) == "a workload with sequence 0: expected at least 1; give a larger sequence"


@pytest.mark.parametrize(("rows", "given_"), [([], "no rows"), ([[101, 102], []], "an empty row")])
def test_missing_tokens_are_refused(rows: list[list[int]], given_: str) -> None:
    with pytest.raises(DataError) as raised:
        make_batches(rows, Workload(1, 8))

    assert str(raised.value) == (f"{given_} of token ids: expected encoded texts; give --data with at least one text")


def test_an_unknown_input_is_refused() -> None:
    with pytest.raises(DataError) as raised:
        make_batches([[101, 102]], Workload(1, 8), inputs=["input_idx"])

    assert str(raised.value) == (
        "the model's input 'input_idx': a workload cannot make it, did you mean 'input_ids'? "
        "known: attention_mask, input_ids, token_type_ids; time this model from your own script with time_paired"
    )
