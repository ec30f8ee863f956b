"""Where artefacts are written before they take their place: folders beside it, removed after a kill too."""

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qat.errors import OutputError
from qat.locks import find_idle, join_folder

_SUFFIX = ".qdq"
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD of fcntl.h, RENAME_EXCHANGE of linux/fs.h


@contextmanager
def staging_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` to write in, gone when the block ends.

    Those of processes that were killed are removed first, where nobody is writing beside ``path``.

    Raises:
        OutputError: the parent folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent)
            stack.enter_context(join_folder(path.parent))
            staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent))
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror} ({path.parent}); choose another --out") from error
        stack.callback(shutil.rmtree, staging, ignore_errors=True)
        staging.chmod(0o755)
        yield staging


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes have left in ``folder``, where nobody is writing there now."""
    left = list(folder.glob(f".*{_SUFFIX}"))
    if not left:
        return
    with find_idle(folder) as idle:
        for path in left if idle else ():
            shutil.rmtree(path, ignore_errors=True)


def exchange(new: Path, old: Path) -> None:
    """Gives each of two folders the other's name, in one step: at every moment ``old`` is one of the two, whole.

    Where the system has no such step (it is Linux's) there is a moment in which ``old`` is missing.
    """
    if sys.platform == "linux" and _rename_both(new, old):
        return
    aside = new.with_name(new.name + ".old")
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


def _rename_both(new: Path, old: Path) -> bool:
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # glibc 2.28, musl 1.2.6
    return rename is not None and rename(_HERE, os.fsencode(new), _HERE, os.fsencode(old), _EXCHANGE) == 0
