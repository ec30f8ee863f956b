"""What an engine is asked to be: shapes, profiles and buckets, and the requests they cover."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.engine_spec import ShapeRange, find_profile, parse_profiles, parse_shapes, split_buckets
from qat.errors import BuildError


def test_three_entries_are_smallest_usual_and_largest_in_any_order() -> None:
    expected = ShapeRange(batch=(1, 8, 32), sequence=(16, 128, 384))
    assert parse_shapes("1x16,8x128,32x384") == expected
    assert parse_shapes(" 32X384 , 1x16,8x128") == expected


def test_one_entry_is_static_and_two_make_the_larger_the_usual() -> None:
    assert parse_shapes("8x128") == ShapeRange.fixed(8, 128)
    assert parse_shapes("8x128").static
    assert parse_shapes("1x16,8x128") == ShapeRange(batch=(1, 8, 8), sequence=(16, 128, 128))
    assert not parse_shapes("1x16,1x128").static


@given(st.lists(st.tuples(st.integers(1, 512), st.integers(1, 512)), min_size=1, max_size=3))
def test_every_entry_lies_inside_the_range_it_makes(entries: list[tuple[int, int]]) -> None:
    shapes = parse_shapes(",".join(f"{batch}x{sequence}" for batch, sequence in entries))
    assert all(shapes.batch[0] <= batch <= shapes.batch[2] for batch, _ in entries)
    assert all(shapes.sequence[0] <= sequence <= shapes.sequence[2] for _, sequence in entries)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8*128", "--shapes entry '8*128' is no shape; expected one to three BATCHxSEQUENCE entries such as 1x16"),
        ("", "--shapes entry '' is no shape"),
        ("8x128,", "--shapes entry '' is no shape"),
        ("0x128", "--shapes entry '0x128' has a size of 0"),
        ("1x1,2x2,3x3,4x4", "--shapes '1x1,2x2,3x3,4x4' has 4 entries; expected one to three"),
    ],
)
def test_a_shape_that_makes_no_sense_is_named(text: str, message: str) -> None:
    with pytest.raises(BuildError) as caught:
        parse_shapes(text)
    assert str(caught.value).startswith(message)


def test_sizes_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(BuildError, match=r"batch sizes \(8, 1, 32\) were given; expected \(smallest, usual, largest\)"):
        ShapeRange(batch=(8, 1, 32), sequence=(16, 128, 384))


def test_sizes_beyond_32_bits_are_refused() -> None:
    with pytest.raises(BuildError, match=r"sequence sizes .* were given; expected .*, from 1 to 2147483647"):
        parse_shapes("1x2147483648")


def test_a_semicolon_stands_between_profiles() -> None:
    assert parse_profiles("1x1,1x32,1x64; 1x1,8x128,32x128") == (
        ShapeRange(batch=(1, 1, 1), sequence=(1, 32, 64)),
        ShapeRange(batch=(1, 8, 32), sequence=(1, 128, 128)),
    )
    assert parse_profiles("8x128") == (ShapeRange.fixed(8, 128),)


def test_a_profile_that_no_request_would_reach_is_refused() -> None:
    with pytest.raises(BuildError) as caught:
        parse_profiles("1x1,8x128;1x1,1x64")
    assert str(caught.value) == (
        "--shapes '1x1,8x128;1x1,1x64': the profile 1x1 to 1x64 lies within 1x1 to 8x128, which a request tries first; "
        "put it first, or leave it out"
    )


@pytest.mark.parametrize("text", ["1x1;", ";", "1x1;;8x8"])
def test_an_empty_profile_is_no_shape(text: str) -> None:
    with pytest.raises(BuildError, match=r"^--shapes entry '' is no shape; expected one to three"):
        parse_profiles(text)


def test_buckets_split_the_sequences_without_a_gap() -> None:
    shapes = parse_shapes("1x4,8x64,32x128")
    profiles = split_buckets(shapes, (32, 64, 128))
    assert [profile.sequence for profile in profiles] == [(4, 32, 32), (33, 64, 64), (65, 128, 128)]
    assert {profile.batch for profile in profiles} == {(1, 8, 32)}
    for length in range(4, 129):
        assert [profile.covers(8, length) for profile in profiles].count(True) == 1


@pytest.mark.parametrize("buckets", [(64, 32, 128), (2, 128), (32, 64), (32, 256), (32, 32, 128)])
def test_buckets_that_do_not_fit_the_sequences_are_refused(buckets: tuple[int, ...]) -> None:
    with pytest.raises(BuildError) as caught:
        split_buckets(parse_shapes("1x4,32x128"), buckets)
    assert str(caught.value) == (
        f"--buckets '{','.join(map(str, buckets))}' were given for sequences of 4 to 128 tokens; expected ascending "
        "lengths from 4, the last of them 128"
    )


def test_a_request_goes_to_the_first_profile_that_takes_it() -> None:
    profiles = parse_profiles("1x1,1x64;1x1,8x128")
    assert [find_profile(profiles, *request) for request in ((1, 64), (1, 65), (2, 1), (8, 128))] == [0, 1, 1, 1]


@pytest.mark.parametrize("request_", [(9, 1), (1, 129)])
def test_a_request_that_no_profile_covers_names_them(request_: tuple[int, int]) -> None:
    with pytest.raises(BuildError) as caught:
        find_profile(parse_profiles("1x64;1x1,8x128"), *request_)
    assert str(caught.value) == (
        f"{request_[0]}x{request_[1]} was asked for (rows x tokens), but the engine's profiles take 1x64; "
        "1x1 to 8x128: stay within one of them, or build again with --shapes that hold it"
    )
