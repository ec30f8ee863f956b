"""A file system that takes no more, in one line: libraries say it in words of their own."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qat.errors import OutputError

_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_RUST = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers
_TORCH = "inline_container.cc"  # torch.save: where its writer noticed, never why


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Inside the block what could not be written for want of room, or of leave to write, is an error about ``path``.

    Raises:
        OutputError: in place of any such error.
    """
    try:
        yield
    except Exception as error:
        reason = _find_reason(error)
        if reason is None:
            raise
        raise OutputError(f"cannot write {path}: {reason}; make room there, or choose another --out") from error


def _find_reason(error: Exception) -> str | None:
    """Why a write failed; None for an error that is none of a write.

    >>> _find_reason(OSError(errno.ENOSPC, "No space left on device"))
    'No space left on device'
    >>> _find_reason(Exception("I/O error: File too large (os error 27)"))
    'File too large'
    >>> _find_reason(ValueError("no label"))
    """
    said = _RUST.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(said[1]) if said else None
    if number in _NUMBERS:
        return os.strerror(number or 0)
    return "the file system takes no more" if isinstance(error, RuntimeError) and _TORCH in str(error) else None
