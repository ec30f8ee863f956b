"""Command lines of any words end with status 0, or with 2 and one line that says why."""

from pathlib import Path

import pytest

from tests.fuzzing.command_line_targets import TARGETS
from tests.fuzzing.target import FuzzTarget, feed_batches


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_words_in_any_order(target: FuzzTarget, tmp_path: Path) -> None:
    feed_batches(target, tmp_path)
