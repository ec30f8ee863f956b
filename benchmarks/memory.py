"""The largest resident memory of this process while something runs, where the kernel can be asked (Linux)."""

from collections.abc import Callable
from pathlib import Path

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"
"""What proc(5) resets the peak by, written to ``clear_refs``."""


def peak_megabytes(run: Callable[[], object], *, process: Path = _PROCESS) -> float | None:
    """The peak in MB, what was resident before included; None where the kernel does not tell."""
    try:
        (process / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        run()
        return None
    run()
    lines = (process / "status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) / 1e3
