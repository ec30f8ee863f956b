"""What calibration keeps beside its ranges, and reads again: evidence and candidates."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from calibration import candidates, evidence
from calibration.candidates import format_candidates, read_candidates
from calibration.evidence import examine, format_evidence, read_evidence
from tests.fuzzing.structure import change_json
from tests.fuzzing.target import SOME, FuzzTarget, in_parts, survive


def _evidence() -> tuple[bytes, ...]:
    found = examine((np.array([0.5, 1.0, 2.0]), np.array([4.0, 2.0, 1.0])), 2.0, np.array([0.1, 2.0]), [(2.0, 0.016)])
    return (format_evidence({"a.b": [found, found]}).encode(),)


def _candidates() -> tuple[bytes, ...]:
    return (format_candidates({"max": {"a.b": [1.0, 2.0]}}).encode(),)


def _kept(name: str, file: str, corpus: Callable[[], tuple[bytes, ...]], read: Callable[[Path], object]) -> FuzzTarget:
    def take(data: bytes, folder: Path) -> None:
        (folder / file).write_bytes(data)
        survive(read, folder)

    return in_parts(name, corpus, take, change_json, inputs=SOME, quick=2)


TARGETS = (
    _kept("evidence", evidence.FILE, _evidence, read_evidence),
    _kept("candidates", candidates.FILE, _candidates, read_candidates),
)
"""Every target of this package."""
