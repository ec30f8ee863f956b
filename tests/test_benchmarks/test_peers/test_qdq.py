"""Our own rows: each holds what a peer of the same placement can hold, and no more."""

from pathlib import Path

import pytest

from benchmarks.peers.job import Job
from benchmarks.peers.qdq_peer import QdqModel

LAYERS = 2


@pytest.mark.parametrize(
    ("recipe", "activations"), [("linear/channel max", 4), ("tensorrt/tensor max", 8), ("qdqbert/channel max", 14)]
)
def test_no_row_quantizes_what_comes_before_a_bias(job: Job, recipe: str, activations: int, tmp_path: Path) -> None:
    model = QdqModel(job, tmp_path)
    model.quantize(recipe, job.calibration)
    assert model.describe().activations == LAYERS * activations
    assert model.describe().weights == LAYERS * 6
