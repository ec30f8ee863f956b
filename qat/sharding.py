"""Sharded tensors: under FSDP a parameter outside its layer's forward is one process's piece of it."""

from typing import cast

from torch import Tensor
from torch.distributed.tensor import DTensor


def gather_whole(tensor: Tensor) -> Tensor:
    """``tensor`` itself, or where FSDP has sharded it, the whole of it; then every process must call.

    >>> import torch
    >>> gather_whole(torch.ones(2))
    tensor([1., 1.])
    """
    if not isinstance(tensor, DTensor):
        return tensor
    # offloaded pieces lie where the processes cannot exchange them
    pieces = cast(DTensor, tensor.to(tensor.device_mesh.device_type))
    return pieces.full_tensor().to(tensor.device)
