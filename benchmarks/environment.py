"""The machine a number was measured on: what decides INT8 speed, and the versions that ran."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

from qat.artefacts import installed_versions

INT8_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""The CPU features that INT8 kernels choose by: x86 first, then Arm."""

_CPU_LIST = Path("/proc/cpuinfo")


def describe_environment() -> dict[str, object]:
    """The date, the CPU with its INT8 flags, the GPU if there is one, the system and the versions, as JSON values."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": describe_cpu(),
        **({"gpu": describe_gpu()} if torch.cuda.is_available() else {}),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": installed_versions(),
    }


def describe_cpu(source: Path = _CPU_LIST) -> dict[str, object]:
    """The CPU's model, the cores this process may use, torch's threads, and which INT8 flags it has.

    Args:
        source: the kernel's list of CPUs. Where there is none (macOS, Windows) the flags are ``None``: not known.
    """
    fields = _read_first_cpu(source)
    listed = fields.get("flags", fields.get("Features"))
    has = None if listed is None else set(listed.split())
    return {
        "model": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": _count_cores(),
        "torch_threads": torch.get_num_threads(),
        "flags": None if has is None else [flag for flag in INT8_FLAGS if flag in has],
    }


def describe_gpu() -> dict[str, object]:
    """The current CUDA device's name, compute capability, memory in GiB and CUDA version; only where there is one."""
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "model": device.name,
        "capability": f"sm_{device.major}{device.minor}",
        "memory_gib": round(device.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }


def _count_cores() -> int:
    if platform.system() == "Linux":
        return len(os.sched_getaffinity(0))  # a container may own fewer than the machine has
    return os.cpu_count() or 1


def _read_first_cpu(source: Path) -> dict[str, str]:
    if not source.is_file():
        return {}
    first = source.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
