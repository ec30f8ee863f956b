"""A peer's training steps, taken in its own environment, one by one in alternation with ours."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers.environments import find_python
from benchmarks.peers.job import Feed, Job
from benchmarks.peers.process import list_variables
from benchmarks.peers.roster import PEERS
from qat.errors import BuildError

PEER = "modelopt"
_MODULE = "benchmarks.qat_step_modelopt"
_CALIBRATION_BATCHES = 4


class PeerSteps:
    """The other side of a process that takes steps when asked.

    Attributes:
        processor_ns: what that process has used of all processors, up to its last answer.
    """

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log
        self.processor_ns = 0

    def take(self, name: str) -> None:
        """Lets one contestant take its next step, and waits for it."""
        if self._process.stdin is None or self._process.stdout is None:
            raise BuildError(f"{PEER} was started without pipes")
        try:
            self._process.stdin.write(f"{name}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer below says why
        self.wait()

    def wait(self) -> None:
        """Reads one answer.

        Raises:
            BuildError: the process ended; the last line it wrote.
        """
        answer = "" if self._process.stdout is None else self._process.stdout.readline()
        if not answer:
            lines = self._log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise BuildError(f"the training step of {PEER} failed: {lines[-1][:300]}; leave it out with --no-peers")
        self.processor_ns = int(answer)


@contextmanager
def open_peer(checkpoint: Path, feeds: Sequence[Feed], *, threads: int, environments: Path) -> Iterator[PeerSteps]:
    """The peer's process with its models made, ended with the block.

    Args:
        checkpoint: a float checkpoint folder.
        feeds: batches with labels.
        threads: of the process.
        environments: where the peers' environments lie.

    Raises:
        BuildError: its environment was not made, or its models could not be.
    """
    python = find_python(PEERS[PEER], environments)
    with TemporaryDirectory(prefix="qat-step-") as scratch:
        folder = Path(scratch)
        Job(
            checkpoint=checkpoint.absolute(),
            task="text-classification",
            graph=None,
            threads=threads,
            calibration=feeds,
            evaluation=feeds[:_CALIBRATION_BATCHES],
        ).write(folder)
        log = folder / "log"
        with log.open("w") as errors:
            process = subprocess.Popen(  # noqa: S603
                [str(python), "-m", _MODULE, str(folder)],
                env={**os.environ, **list_variables(threads)},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        try:
            steps = PeerSteps(process, log)
            steps.wait()
            yield steps
        finally:
            process.kill()
            process.communicate()
