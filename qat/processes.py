"""Several processes at one piece of work, started by torchrun."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import distributed

Value = TypeVar("Value")


@contextmanager
def process_group() -> Iterator[bool]:
    """Inside the block the processes that torchrun started know each other; the block gets whether this one leads."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield rank() == 0
        return
    distributed.init_process_group("gloo")
    try:
        yield rank() == 0
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """The number of this process, 0 where it is alone; known before a process group is."""
    return distributed.get_rank() if distributed.is_initialized() else int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many take part."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def share_first(value: Value) -> Value:
    """What the first process gave, in every process."""
    held = [value]
    if processes() > 1:
        distributed.broadcast_object_list(held, src=0)
    return held[0]


def wait_for_all() -> None:
    """Returns once every process has come here."""
    if processes() > 1:
        distributed.barrier()
