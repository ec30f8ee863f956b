"""What an engine is asked to be: its builder, its shapes, its hardware."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qat.errors import BuildError

BuilderName = Literal["rtx", "tensorrt"]
Range = tuple[int, int, int]
_LARGEST = 2**31 - 1
_ENTRY = re.compile(r"([0-9]+)[xX]([0-9]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeRange:
    """The shapes an engine takes: (smallest, usual, largest) of the batch and of the sequence, in rows and tokens.

    Raises:
        BuildError: a size below 1 or above the largest 32-bit integer, or three sizes that do not ascend.
    """

    batch: Range
    sequence: Range

    def __post_init__(self) -> None:
        for axis, sizes in self.axes().items():
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
        """The ranges by the names that dynamic axes carry in an exported graph."""
        return {"batch": self.batch, "sequence": self.sequence}


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """What to build: by which builder, for which shapes, to run on which hardware (``sm_89``; none: its default)."""

    builder: BuilderName
    shapes: ShapeRange
    hardware: tuple[str, ...] = ()


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
        raise BuildError(f"--shapes {text!r} has {len(pairs)} entries; {expected} (smallest, usual, largest)")
    return ShapeRange(batch=_spread([pair[0] for pair in pairs]), sequence=_spread([pair[1] for pair in pairs]))


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
