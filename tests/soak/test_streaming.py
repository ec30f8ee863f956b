"""Rows stream: four times as many take no more memory, to calibrate on and to score."""

from pathlib import Path

import pytest

from tests.soak.streaming import calibration, evaluation, peaks_mb, save_model, write_rows
from tests.tolerances import STREAMED_PEAK

pytestmark = pytest.mark.long

FEW, MANY = 10_000, 40_000
"""Held as they are read, the difference is 84 MB, 13 % of the process."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny") / "model")


def test_memory_does_not_grow_with_the_rows_calibrated_on(model: Path, tmp_path: Path) -> None:
    files = {n: write_rows(tmp_path / f"{n}.jsonl", n) for n in (FEW, MANY)}
    few, many = peaks_mb([calibration(model, data, rows=n, method="max") for n, data in files.items()])
    assert many <= STREAMED_PEAK.value * few


def test_memory_does_not_grow_with_the_rows_scored(model: Path, tmp_path: Path) -> None:
    few, many = peaks_mb([evaluation(model, write_rows(tmp_path / f"{n}.jsonl", n)) for n in (FEW, MANY)])
    assert many <= STREAMED_PEAK.value * few
