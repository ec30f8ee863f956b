"""The machine a number was measured on: what decides INT8 speed, and the versions that ran."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

from qat.artefacts import installed_versions
from qat.cpu import read_cpu, read_int8_flags


def describe_environment() -> dict[str, object]:
    """The date, the CPU with its INT8 flags, the GPU if there is one, the system and the versions, as JSON values."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": describe_cpu(),
        **({"gpu": describe_gpu()} if torch.cuda.is_available() else {}),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": installed_versions(),
    }


def describe_cpu(source: Path | None = None) -> dict[str, object]:
    """The CPU's model, the cores this process may use, torch's threads, and which INT8 flags it has.

    Args:
        source: a list of CPUs; None for the kernel's. Where there is none (macOS, Windows) the flags are ``None``: not
            known.
    """
    fields = read_cpu(source)
    return {
        "model": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": _count_cores(),
        "torch_threads": torch.get_num_threads(),
        "flags": read_int8_flags(source),
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
