"""Processes that wait for each other."""

import time
from pathlib import Path

from qat.processes import rank, wait_for_all
from tests.ranks import run_ranks


def come_late(folder: Path) -> None:
    late = folder / "late.txt"
    if rank() == 1:
        time.sleep(0.5)
        late.write_text("here", encoding="utf-8")
    wait_for_all()
    assert late.is_file()


def test_the_first_waits_for_the_last(tmp_path: Path) -> None:
    run_ranks(come_late, tmp_path)


def test_a_process_alone_waits_for_nobody() -> None:
    wait_for_all()
