"""A million rows through ``qdq calibrate`` and ``qdq evaluate``, in a process of its own whose peak memory is read.

Run as a module it is that process: commands as JSON, one after the other, the peak so far printed after each.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command_line import app
from tests.tiny import save_tiny, tiny_bert, tiny_rows, tiny_tokenizer

Command = Sequence[str]
_TASK = ("--task", "text-classification")


def save_model(folder: Path) -> Path:
    """A checkpoint so small that rows, not layers, take the time."""
    return save_tiny(tiny_bert(num_hidden_layers=1), tiny_tokenizer(), folder)


def write_rows(path: Path, n: int) -> Path:
    """``n`` short rows as JSONL, the same 10,000 over and over."""
    block = [json.dumps(row) + "\n" for row in tiny_rows(min(n, 10_000))]
    with path.open("w", encoding="utf-8") as stream:
        for start in range(0, n, len(block)):
            stream.writelines(block[: n - start])
    return path


def calibration(model: Path, data: Path, *, rows: int, method: str) -> Command:
    """The command that calibrates on all the rows, into a folder beside them."""
    samples = ("--set", f"calibration.samples={rows}", "--batch-size", "128", "--method", method)
    return ("calibrate", str(model), *_TASK, "--data", str(data), *samples, "--out", str(data.with_suffix("")))


def evaluation(artefact: Path, data: Path) -> Command:
    """The command that scores on all rows."""
    return ("evaluate", str(artefact), *_TASK, "--data", str(data))


def peaks_mb(commands: Sequence[Command]) -> list[float]:
    """The largest resident memory of a process after each of these commands of ``qdq``: it never falls."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak.streaming", json.dumps(commands)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return [float(line.removeprefix("peak ")) for line in done.stderr.splitlines() if line.startswith("peak ")]


def read_peak_mb() -> float:
    """The largest resident memory of this process so far; the one that getrusage knows may be its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6  # type: ignore[index]


if __name__ == "__main__":
    for command in json.loads(sys.argv[1]):
        app(args=command, standalone_mode=False)
        sys.stderr.write(f"peak {read_peak_mb()}\n")
