"""Evidence and candidates of any content are read, or refused by an error of ours."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration import candidates, evidence
from calibration.candidates import format_candidates, read_candidates
from calibration.evidence import examine, format_evidence, read_evidence
from qat.errors import QDQError
from tests.mutations import batches, change_bytes, change_tree

FOUND = examine((np.array([0.5, 1.0, 2.0]), np.array([4.0, 2.0, 1.0])), 2.0, np.array([0.1, 2.0]), [(2.0, 0.016)])
KEPT: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "evidence": (evidence.FILE, format_evidence({"a.b": [FOUND, FOUND]}), read_evidence),
    "candidates": (candidates.FILE, format_candidates({"max": {"a.b": [1.0, 2.0]}}), read_candidates),
}


@pytest.mark.parametrize("kind", sorted(KEPT))
@batches(4, 1000)
@given(seed=st.integers(0, 2**64))
def test_kept_files(kind: str, tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    name, text, read = KEPT[kind]
    changed = [json.dumps(value).encode() for value in change_tree([json.loads(text)], seed)]
    for data in (*change_bytes([text.encode()], seed), *changed):
        (folder / name).write_bytes(data)
        with suppress(QDQError):
            assert read(folder) is not None
