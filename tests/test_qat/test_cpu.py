"""The CPU's flags, and what they say of sums of INT8 products."""

from pathlib import Path

import pytest

from qat.cpu import read_cpu, read_int8_flags, saturates_int8


def write(folder: Path, line: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\nflags\t: other\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "flags", "saturates"),
    [
        ("flags\t: fpu sse2 avx2", ["avx2"], True),
        ("flags\t: fpu avx2 avx512f", ["avx2", "avx512f"], True),
        ("flags\t: fpu avx2 avx512f avx512_vnni", ["avx2", "avx512f", "avx512_vnni"], False),
        ("flags\t: fpu avx2 avx_vnni", ["avx2", "avx_vnni"], False),
        ("Features\t: fp asimd asimddp i8mm", ["asimddp", "i8mm"], False),
        ("model\t: unknown", None, False),
    ],
)
def test_avx2_without_vnni_saturates(line: str, flags: list[str] | None, saturates: bool, tmp_path: Path) -> None:
    source = write(tmp_path, line)
    assert (read_int8_flags(source), saturates_int8(source)) == (flags, saturates)


def test_a_system_without_a_list_says_nothing(tmp_path: Path) -> None:
    nowhere = tmp_path / "nothing"
    assert (read_cpu(nowhere), read_int8_flags(nowhere), saturates_int8(nowhere)) == ({}, None, False)
