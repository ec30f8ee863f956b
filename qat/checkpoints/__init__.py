"""The formats checkpoints are kept in, one file each.

A new format is one file here, a ``CheckpointFormat`` at its end and its name in ``FORMATS``.
"""

from pathlib import Path

from qat.checkpoints.amax import AMAX
from qat.checkpoints.base import CheckpointFormat
from qat.checkpoints.flax import FLAX
from qat.checkpoints.huggingface import HUGGINGFACE
from qat.checkpoints.tf1 import TF1
from qat.errors import CheckpointError, suggest

FORMATS: tuple[CheckpointFormat, ...] = (AMAX, HUGGINGFACE, FLAX, TF1)
"""The first that recognizes a folder reads it."""


def find_format(place: Path) -> CheckpointFormat:
    """The format of the checkpoint at ``place``, a folder or, of those kept in files of any name, one of its files.

    Raises:
        CheckpointError: nothing is there, or nothing that is a checkpoint.
    """
    if not place.exists():
        near = [path.parent.name for path in place.parent.glob("*/config.json")]
        hint = f"; {suggest(place.name, near)}" if near else ""
        raise CheckpointError(f"no checkpoint folder {place}: give the folder of a Hugging Face checkpoint{hint}")
    for each in FORMATS:
        if each.recognize(place):
            return each
    if (place / "config.json").is_file():
        return HUGGINGFACE  # whose weights are missing, as loading it will say
    known = "; ".join(f"{each.name} ({each.files})" for each in FORMATS)
    raise CheckpointError(f"{place} is no checkpoint: it has no config.json, and nothing else of {known}")


__all__ = ["FORMATS", "CheckpointFormat", "find_format"]
