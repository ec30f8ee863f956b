"""The stages of a journey: each is named while it runs and timed, and left out where its artefact still holds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from qat.origin import Origin, explain_remake

Advance = Callable[[str, int, int | None], None]
"""Called with the running stage, what is done of it, and how much there is, None where nobody knows."""


class Move(Protocol):
    """The same inside one stage."""

    def __call__(self, done: int, total: int | None, phase: str = "") -> None:
        """Tells what is done, how much there is, and what the stage is at."""


class Stages:
    """Names the running stage to the caller and keeps how long each one took.

    Args:
        advance: told of the running stage.
        resume: whether an artefact that is what its stage would make is taken as it is.
    """

    def __init__(self, advance: Advance, *, resume: bool) -> None:
        self.seconds: dict[str, float] = {}
        self._advance, self._resume = advance, resume

    @contextmanager
    def stage(self, name: str, because: str = "") -> Iterator[Move]:
        """Times a block; the block gets the function that reports its progress.

        Args:
            name: what its time is kept under.
            because: why it is run again, where that is worth a word.
        """
        shown = f"{name} ({because})" if because else name
        self._advance(shown, 0, None)
        started = time.perf_counter()
        yield lambda done, total, phase="": self._advance(f"{shown}: {phase}" if phase else shown, done, total)
        self.seconds[name] = round(time.perf_counter() - started, 2)

    def fill(self, name: str, folder: Path, origin: Origin, make: Callable[[Move], None]) -> None:
        """Runs the stage that makes ``folder``; resumed, only where what is there cannot stand for what it makes."""
        reason = explain_remake(folder, origin) if self._resume else ""
        if self._resume and not reason:
            with self.stage(f"take {folder.name}"):
                return
        with self.stage(name, reason if folder.exists() else "") as move:
            make(move)
