"""What every test runs under: offline, with its own caches, seeded, and a stated reason for each skipped GPU test.

The environment is set here, on import, because transformers and datasets read it when they are imported.
"""

import logging
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

collect_ignore_glob = ["*/make_*.py"]
"""Scripts that made fixtures, each in an environment of its own."""

_CACHE = "QDQ_TEST_CACHE"

if _CACHE not in os.environ:  # the workers of xdist inherit it
    os.environ[_CACHE] = tempfile.mkdtemp(prefix="qdq-tests-")
os.environ.update(
    HF_HOME=os.environ[_CACHE],
    XDG_CACHE_HOME=os.environ[_CACHE],
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    NO_COLOR="1",
    COLUMNS="120",
)

if not any(map(shutil.which, ("g++", "c++"))):  # its warning, an error here, has tests of its own
    os.environ.setdefault("QDQ_FUSED", "off")

# Shared machines are slow and uneven, and a failure must come back when the suite is run again.
hypothesis.settings.register_profile("qdq", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("soak", deadline=None, database=None, suppress_health_check=hypothesis.HealthCheck)
hypothesis.settings.load_profile("qdq")  # --hypothesis-profile comes later, and wins

torch.set_num_threads(1)

# pytest captures what goes to no root logger; torch then tells its trace log all of every export, a tenth of its time.
logging.getLogger("torch.__trace").propagate = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the GPU tests, by name of what is missing, where there is no GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU: torch finds none on this machine"))


def pytest_unconfigure() -> None:
    """Removes the caches, once, when the last worker is gone."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(Path(os.environ[_CACHE]), ignore_errors=True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _cpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A CPU whose INT8 sums saturate nowhere, whatever this one is: what commands and rules say of it is the same."""
    listed = tmp_path_factory.mktemp("cpu") / "cpuinfo"
    listed.write_text("flags: avx2 avx512f avx512_vnni\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qat.cpu.CPU_LIST", listed)
        yield
