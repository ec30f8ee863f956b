"""Layer tables, manifests and ONNX files of any content are read, or refused by an error of ours."""

from pathlib import Path

import pytest

from tests.fuzzing.export_targets import TARGETS
from tests.fuzzing.target import FuzzTarget, feed_batches


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_inputs(target: FuzzTarget, tmp_path: Path) -> None:
    feed_batches(target, tmp_path)
