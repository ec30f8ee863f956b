"""The GPU of this machine, as far as an engine depends on it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device: its product name and its compute capability, ``sm_89`` style."""

    name: str
    capability: str

    def __str__(self) -> str:
        return f"{self.name} ({self.capability})"


def find_gpu() -> Gpu | None:
    """The current CUDA device, ``None`` where torch finds none."""
    if not torch.cuda.is_available():
        return None
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Gpu(device.name, f"sm_{device.major}{device.minor}")
