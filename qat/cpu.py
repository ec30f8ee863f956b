"""What this machine's CPU can: the features that INT8 kernels choose by."""

from pathlib import Path

INT8_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""The CPU features that INT8 kernels choose by: x86 first, then Arm."""

CPU_LIST = Path("/proc/cpuinfo")
"""The kernel's list of CPUs; macOS and Windows have none."""

_VNNI = frozenset({"avx512_vnni", "avx_vnni"})


def read_cpu(source: Path | None = None) -> dict[str, str]:
    """What the kernel's list says of the first CPU, by field; empty where there is no list."""
    source = source or CPU_LIST
    if not source.is_file():
        return {}
    first = source.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def read_int8_flags(source: Path | None = None) -> list[str] | None:
    """Which of ``INT8_FLAGS`` the CPU has; None where that is not known."""
    fields = read_cpu(source)
    listed = fields.get("flags", fields.get("Features"))
    has = None if listed is None else set(listed.split())
    return None if has is None else [flag for flag in INT8_FLAGS if flag in has]


def saturates_int8(source: Path | None = None) -> bool:
    """Whether INT8 products lose their largest sums here: AVX2 without VNNI; False where the CPU is not known.

    ``vpmaddubsw`` adds two products of an unsigned and a signed byte in 16 bits and saturates (Intel 64 and IA-32
    Architectures Software Developer's Manual, volume 2, PMADDUBSW): 255 * 127 * 2 is beyond them, 255 * 63 * 2 is not.
    """
    flags = read_int8_flags(source)
    return flags is not None and "avx2" in flags and _VNNI.isdisjoint(flags)
