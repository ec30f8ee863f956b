"""Measured kernel timings kept between builds of TensorRT, one file a GPU and version.

TensorRT for RTX measures nothing while it builds: its timing cache is deprecated and without effect, so it gets none.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from export.builders import hardware_names
from export.gpu import Gpu
from qat.artefacts import atomic_file


@contextmanager
def keep_timings(trt: Any, config: Any, folder: Path | None, gpu: Gpu | None) -> Iterator[None]:
    """Inside the block a build reuses the timings of ``folder``; afterwards the folder holds those it measured too.

    Nothing is kept without a folder, on an unknown GPU, or by a builder that builds without measuring. A file that
    TensorRT refuses is replaced.

    Raises:
        OutputError: the folder cannot be written.
    """
    if folder is None or gpu is None or hardware_names(trt):
        yield
        return
    path = cache_file(folder, gpu, str(trt.__version__))
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        known = b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    yield
    measured = bytes(config.get_timing_cache().serialize())
    if measured != known:
        with atomic_file(path) as staging:
            staging.write_bytes(measured)


def cache_file(folder: Path, gpu: Gpu, version: str) -> Path:
    """The file of one GPU and TensorRT version: timings hold on no other.

    >>> cache_file(Path("timings"), Gpu("NVIDIA L4", "sm_89"), "10.13.3.9").name
    'nvidia-l4-sm_89-tensorrt-10.13.3.9.cache'
    """
    name = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    return Path(folder) / f"{name}-{gpu.capability}-tensorrt-{version}.cache"
