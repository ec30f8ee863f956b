"""A module run by an interpreter of any environment, with the project on its path; what it failed on in one line."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import benchmarks

_ROOT = Path(benchmarks.__file__).parents[1]
_LONGEST = 300


def run_process(command: Sequence[str], *, cwd: Path, threads: int, minutes: float) -> str:
    """Runs a command; the last line it wrote where it failed, files named from ``cwd``, empty where it did not.

    Args:
        command: the program and its arguments.
        cwd: the folder it runs in.
        threads: how many it may use.
        minutes: after these it is stopped.
    """
    try:
        done = subprocess.run(  # noqa: S603
            [*command],
            cwd=cwd,
            env={**os.environ, **list_variables(threads)},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60 * minutes,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {minutes:g} minutes"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == 0:
        return ""
    return lines[-1].replace(f"{cwd}/", "")[:_LONGEST] if lines else f"exit status {done.returncode}"


def list_variables(threads: int) -> dict[str, str]:
    """The environment variables of a peer's process: it finds the project, fetches nothing, uses so many threads."""
    return {
        "PYTHONPATH": str(_ROOT),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
