"""The environment stamp: JSON, and the flags that are really there."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from benchmarks.environment import describe_cpu, describe_environment, describe_gpu
from qat.artefacts import installed_versions

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480C
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni avx_vnni amx_bf16 amx_int8

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm sve\n"


def test_the_stamp_is_json_with_versions_and_a_date() -> None:
    stamp = describe_environment()

    assert json.loads(json.dumps(stamp)) == stamp
    assert stamp["versions"] == installed_versions()
    assert abs(datetime.now(UTC) - datetime.fromisoformat(str(stamp["date"]))) < timedelta(minutes=5)
    assert ("gpu" in stamp) is torch.cuda.is_available()


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (XEON, ["avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"]),
        (GRAVITON, ["asimddp", "i8mm"]),
        ("processor: 0\nflags: fpu sse2\n", []),
        ("processor: 0\n", None),
    ],
)
def test_the_flags_that_decide_int8_speed_are_read(text: str, flags: list[str] | None, tmp_path: Path) -> None:
    source = tmp_path / "cpuinfo"
    source.write_text(text, encoding="utf-8")

    assert describe_cpu(source)["flags"] == flags


def test_the_model_is_the_first_cpus(tmp_path: Path) -> None:
    source = tmp_path / "cpuinfo"
    source.write_text(XEON, encoding="utf-8")

    assert describe_cpu(source)["model"] == "Intel(R) Xeon(R) Platinum 8480C"


def test_without_a_list_of_cpus_the_flags_are_not_known(tmp_path: Path) -> None:
    described = describe_cpu(tmp_path / "missing")

    assert described["flags"] is None
    assert described["model"]
    assert described["torch_threads"] == torch.get_num_threads()


@pytest.mark.gpu
def test_the_gpu_is_named() -> None:
    assert describe_gpu()["model"] == torch.cuda.get_device_name()
