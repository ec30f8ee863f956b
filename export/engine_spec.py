"""What an engine is asked to be: its builder, its shapes, its hardware, its features."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from qat.errors import BuildError

BuilderName = Literal["rtx", "tensorrt"]
Feature = Literal["version_compatible", "refittable"]
Range = tuple[int, int, int]
_LARGEST = 2**31 - 1
_ENTRY = re.compile(r"([0-9]+)[xX]([0-9]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeRange:
    """The shapes of one profile: (smallest, usual, largest) of the batch and of the sequence, in rows and tokens.

    Raises:
        BuildError: a size below 1 or above the largest 32-bit integer, or three sizes that do not ascend.
    """

    batch: Range
    sequence: Range

    def __post_init__(self) -> None:
        for axis, sizes in {"batch": self.batch, "sequence": self.sequence}.items():
            if not 1 <= sizes[0] <= sizes[1] <= sizes[2] <= _LARGEST:
                raise BuildError(
                    f"{axis} sizes {sizes} were given; expected (smallest, usual, largest), from 1 to {_LARGEST}"
                )

    @classmethod
    def fixed(cls, batch: int, sequence: int) -> "ShapeRange":
        """The range that holds one shape only."""
        return cls(batch=(batch,) * 3, sequence=(sequence,) * 3)

    @property
    def static(self) -> bool:
        """Whether the range holds one shape only."""
        return all(low == high for low, _, high in (self.batch, self.sequence))

    def axes(self) -> dict[str, Range]:
        """The ranges by the names that dynamic axes carry in an exported graph; a decoder's past is that of a row."""
        shortest, usual, longest = self.sequence
        after = (shortest + 1, usual + 1, longest + 1)
        return {"batch": self.batch, "sequence": self.sequence, "past": self.sequence, "past + 1": after}

    def covers(self, batch: int, sequence: int) -> bool:
        """Whether an engine of this range takes so many rows and tokens."""
        return self.batch[0] <= batch <= self.batch[2] and self.sequence[0] <= sequence <= self.sequence[2]

    def __str__(self) -> str:
        (least, _, most), (short, _, long) = self.batch, self.sequence
        return f"{least}x{short}" if self.static else f"{least}x{short} to {most}x{long}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """What to build.

    Attributes:
        builder: by whom.
        shapes: of the first profile.
        hardware: to run on (``sm_89``); none: the builder's default.
        more_shapes: of every further profile, in the order in which a request tries them.
        features: beyond a plain engine.
    """

    builder: BuilderName
    shapes: ShapeRange
    hardware: tuple[str, ...] = ()
    more_shapes: tuple[ShapeRange, ...] = ()
    features: tuple[Feature, ...] = ()

    @property
    def profiles(self) -> tuple[ShapeRange, ...]:
        """The shapes of every profile."""
        return (self.shapes, *self.more_shapes)


def find_profile(profiles: Sequence[ShapeRange], batch: int, sequence: int) -> int:
    """The number of the first profile that takes so many rows and tokens.

    Raises:
        BuildError: none does.

    >>> find_profile(parse_profiles("1x1,1x32;1x33,8x128"), 1, 40)
    1
    """
    for number, profile in enumerate(profiles):
        if profile.covers(batch, sequence):
            return number
    raise BuildError(
        f"{batch}x{sequence} was asked for (rows x tokens), but the engine's profiles take "
        f"{'; '.join(map(str, profiles))}: stay within one of them, or build again with --shapes that hold it"
    )


def parse_shapes(text: str) -> ShapeRange:
    """The range that ``BATCHxSEQUENCE`` entries span: one is a static shape, the middle of three the usual one.

    Each axis is ordered by itself, so every batch goes with every sequence length between the ends.

    Raises:
        BuildError: an entry that is no ``BATCHxSEQUENCE``, a size of 0, or none or more than three entries.

    >>> parse_shapes("1x16,8x128,32x384")
    ShapeRange(batch=(1, 8, 32), sequence=(16, 128, 384))
    >>> parse_shapes("8x128").static
    True
    """
    expected = "expected one to three BATCHxSEQUENCE entries such as 1x16,8x128,32x384"
    entries = [entry.strip() for entry in text.split(",")]
    pairs = [_parse_entry(entry, expected) for entry in entries]
    if len(pairs) > 3:
        raise BuildError(
            f"--shapes {text!r} has {len(pairs)} entries; {expected} (smallest, usual, largest), "
            "a semicolon between profiles"
        )
    return ShapeRange(batch=_spread([pair[0] for pair in pairs]), sequence=_spread([pair[1] for pair in pairs]))


def parse_profiles(text: str) -> tuple[ShapeRange, ...]:
    """The range of every profile, a semicolon between them.

    Raises:
        BuildError: as for ``parse_shapes``; a profile that an earlier one covers whole, which no request would reach.

    >>> [str(profile) for profile in parse_profiles("1x1,1x64; 1x1,8x128,32x128")]
    ['1x1 to 1x64', '1x1 to 32x128']
    """
    profiles = tuple(parse_shapes(part) for part in text.split(";"))
    for number, late in enumerate(profiles):
        ends = [(late.batch[end], late.sequence[end]) for end in (0, 2)]
        for early in profiles[:number]:
            if all(early.covers(*end) for end in ends):
                raise BuildError(
                    f"--shapes {text!r}: the profile {late} lies within {early}, which a request tries first; "
                    "put it first, or leave it out"
                )
    return profiles


def split_buckets(shapes: ShapeRange, buckets: Sequence[int]) -> tuple[ShapeRange, ...]:
    """One profile for each bucket of sequence lengths: those above the bucket before, best at its own length.

    Raises:
        BuildError: lengths that do not ascend, or that leave the sequences of ``shapes``, or do not reach their end.

    >>> shapes = parse_shapes("1x1,8x64,32x128")
    >>> [profile.sequence for profile in split_buckets(shapes, (32, 128))]
    [(1, 32, 32), (33, 128, 128)]
    """
    shortest, _, longest = shapes.sequence
    ascending = all(low < high for low, high in pairwise(buckets))
    if not buckets or not ascending or buckets[0] < shortest or buckets[-1] != longest:
        given = ",".join(map(str, buckets))
        raise BuildError(
            f"--buckets {given!r} were given for sequences of {shortest} to {longest} tokens; expected ascending "
            f"lengths from {shortest}, the last of them {longest}"
        )
    starts = (shortest, *(length + 1 for length in buckets[:-1]))
    return tuple(
        ShapeRange(batch=shapes.batch, sequence=(start, end, end)) for start, end in zip(starts, buckets, strict=True)
    )


def _parse_entry(entry: str, expected: str) -> tuple[int, int]:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise BuildError(f"--shapes entry {entry!r} is no shape; {expected}")
    batch, sequence = int(match[1]), int(match[2])
    if batch < 1 or sequence < 1:
        raise BuildError(f"--shapes entry {entry!r} has a size of 0; {expected}")
    return batch, sequence


def _spread(sizes: Sequence[int]) -> Range:
    ordered = sorted(sizes)
    return ordered[0], ordered[1] if len(ordered) == 3 else ordered[-1], ordered[-1]
