"""TensorRT's kernel timings: one file a GPU and version, written whole; none where nothing is measured."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.gpu import Gpu
from export.timing_cache import cache_file, keep_timings
from qat.errors import OutputError

L4 = Gpu("NVIDIA L4", "sm_89")
TENSORRT = SimpleNamespace(__version__="10.13.3.9")


class Config:
    """A builder configuration that knows only timing caches; a blob that starts with ``bad`` is refused."""

    def __init__(self) -> None:
        self.cache = b"none set"

    def create_timing_cache(self, blob: bytes) -> Any:
        return None if blob.startswith(b"bad") else SimpleNamespace(blob=blob)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache.blob
        return not cache.blob.startswith(b"other")

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.cache)


def test_timings_are_kept_from_one_build_to_the_next(tmp_path: Path) -> None:
    first, second = Config(), Config()
    with keep_timings(TENSORRT, first, tmp_path / "cache", L4):
        assert first.cache == b""
        first.cache = b"measured"
    file = tmp_path / "cache" / "nvidia-l4-sm_89-tensorrt-10.13.3.9.cache"
    assert file == cache_file(tmp_path / "cache", L4, "10.13.3.9")
    assert file.read_bytes() == b"measured"
    with keep_timings(TENSORRT, second, tmp_path / "cache", L4):
        assert second.cache == b"measured"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [file.name]


@pytest.mark.parametrize("kept", [b"bad bytes", b"other GPU"])
def test_timings_that_tensorrt_refuses_are_replaced(tmp_path: Path, kept: bytes) -> None:
    cache_file(tmp_path, L4, "10.13.3.9").write_bytes(kept)
    config = Config()
    with keep_timings(TENSORRT, config, tmp_path, L4):
        assert config.cache == b""
        config.cache = b"anew"
    assert cache_file(tmp_path, L4, "10.13.3.9").read_bytes() == b"anew"


def test_another_gpu_or_version_has_a_file_of_its_own() -> None:
    names = {
        cache_file(Path("cache"), gpu, version).name
        for gpu in (L4, Gpu("NVIDIA A10", "sm_86"))
        for version in ("10.13.3.9", "11.0.0.114")
    }
    assert len(names) == 4


def test_a_build_that_fails_leaves_the_timings_as_they_were(tmp_path: Path) -> None:
    cache_file(tmp_path, L4, "10.13.3.9").write_bytes(b"before")
    with pytest.raises(ZeroDivisionError), keep_timings(TENSORRT, Config(), tmp_path, L4):
        raise ZeroDivisionError
    assert cache_file(tmp_path, L4, "10.13.3.9").read_bytes() == b"before"


def test_nothing_is_kept_by_rtx_without_a_folder_or_without_a_gpu(tmp_path: Path) -> None:
    rtx = SimpleNamespace(__version__="1.7", ComputeCapability=SimpleNamespace(__members__={"SM89": 1}))
    for trt, folder, gpu in ((rtx, tmp_path, L4), (TENSORRT, None, L4), (TENSORRT, tmp_path, None)):
        config = Config()
        with keep_timings(trt, config, folder, gpu):
            pass
        assert config.cache == b"none set"
    assert list(tmp_path.iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    config = Config()
    with (
        pytest.raises(OutputError, match=r"^cannot write .*file/nvidia-l4.*; choose another"),
        keep_timings(TENSORRT, config, tmp_path / "file", L4),
    ):
        config.cache = b"measured"
