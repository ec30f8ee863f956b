"""Two processes that know each other, as torchrun would start them, forked from one that has imported everything."""

import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

RANKS = 2
TIMEOUT = 60

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["transformers", "accelerate", "qdq", "tests.calibrated", "tests.test_qat.wrapped"])

Work = Callable[[Path], None]


def run_ranks(work: Work, folder: Path) -> None:
    """Runs ``work``, a module's function, on ``folder`` in every rank; fails with the traceback of one that failed."""
    codes = _join_ranks(work, folder)
    reports = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("failed-*.txt"))]
    assert reports == []
    assert codes == [0] * RANKS


def lose_last_rank(work: Work, folder: Path) -> str:
    """The last line of the traceback that the first rank ends with; ``work`` kills the last one's process."""
    codes = _join_ranks(work, folder)
    assert codes[-1] == -signal.SIGKILL
    assert codes[0] == 1, f"an error, in time: {codes}"
    return (folder / "failed-0.txt").read_text(encoding="utf-8").splitlines()[-1]


def _join_ranks(work: Work, folder: Path) -> list[int | None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [_CONTEXT.Process(target=_run_rank, args=(work, folder, rank, port)) for rank in range(RANKS)]
    for process in started:
        process.start()
    for process in started:
        process.join(TIMEOUT)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    return codes


def _run_rank(work: Work, folder: Path, rank: int, port: int) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(RANKS),
        LOCAL_WORLD_SIZE=str(RANKS),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        distributed.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT / 2))
        work(folder)
        distributed.barrier()
        distributed.destroy_process_group()
    except BaseException:
        (folder / f"failed-{rank}.txt").write_text(traceback.format_exc(), encoding="utf-8")
        raise
