"""Processes that wait for each other, and what one says that waits for nobody."""

import os
import signal
import time
from pathlib import Path

import pytest

from qat.errors import ProcessError
from qat.processes import naming_lost_process, process_group, rank, share_first, wait_for_all
from tests.ranks import lose_last_rank, run_ranks


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


def leave(folder: Path) -> None:
    with process_group():
        if rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        share_first(0)
        wait_for_all()


def test_who_waits_for_a_killed_process_is_told(tmp_path: Path) -> None:
    assert lose_last_rank(leave, tmp_path) == (
        "qat.errors.ProcessError: another process of this job has ended or does not answer: "
        "nothing was written; start the job again"
    )


def test_only_the_connection_is_named() -> None:
    with pytest.raises(ProcessError) as caught, naming_lost_process("do this"):
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    assert str(caught.value) == "another process of this job has ended or does not answer: do this"
    with pytest.raises(RuntimeError, match=r"^a shape$"), naming_lost_process("do this"):
        raise RuntimeError("a shape")
