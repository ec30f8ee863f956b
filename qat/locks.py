"""Locks on folders, which the system takes back from a process that ends, however it ends.

Windows has none of this kind: there nothing is locked.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from qat.errors import OutputError

if sys.platform != "win32":
    import fcntl

_LOCK = ".lock"


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Inside the block ``folder`` belongs to this process; others that ask for it are refused.

    Raises:
        OutputError: it belongs to another process.
    """
    if sys.platform == "win32":
        yield
        return
    path = Path(folder) / _LOCK
    with ExitStack() as stack:
        descriptor = _open(path, os.O_RDWR | os.O_CREAT, stack)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"{folder} is being written by another process: wait until that ends, or choose another --out"
            ) from error
        if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise OutputError(f"{folder} was being written by another process a moment ago: try again")
        stack.callback(path.unlink, missing_ok=True)  # while it is locked: whoever opens it later finds it gone
        yield


@contextmanager
def join_folder(folder: Path) -> Iterator[None]:
    """Inside the block others can tell that somebody is writing in ``folder``; any number may."""
    with ExitStack() as stack:
        if sys.platform != "win32":
            descriptor = _open(folder, os.O_RDONLY, stack)
            with suppress(OSError):  # a file system without locks: nobody will find the folder idle either
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


@contextmanager
def find_idle(folder: Path) -> Iterator[bool]:
    """The block gets whether nobody is writing in ``folder``; if so, nobody begins to before it ends."""
    idle = False
    with ExitStack() as stack:
        if sys.platform != "win32":
            descriptor = _open(folder, os.O_RDONLY, stack)
            with suppress(OSError):  # somebody is, or a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                idle = True
        yield idle


def _open(path: Path, flags: int, stack: ExitStack) -> int:
    descriptor = os.open(path, flags, 0o644)
    stack.callback(os.close, descriptor)
    return descriptor
