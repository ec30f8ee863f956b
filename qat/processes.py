"""Several processes at one piece of work, started by torchrun."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from torch import distributed

from qat.errors import ProcessError

Value = TypeVar("Value")


@contextmanager
def process_group() -> Iterator[bool]:
    """Inside the block the processes that torchrun started know each other; the block gets whether this one leads.

    Raises:
        ProcessError: one of them has ended, or has not answered for half an hour.
    """
    with ExitStack() as stack:
        stack.enter_context(naming_lost_process("nothing was written; start the job again"))
        begins = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized()
        if begins:
            distributed.init_process_group("gloo")
            stack.callback(distributed.destroy_process_group)
        yield rank() == 0
        if begins:
            distributed.barrier()


@contextmanager
def naming_lost_process(then: str) -> Iterator[None]:
    """Inside the block, that another process does not answer is an error that says what ``then`` is to be done.

    Raises:
        ProcessError: in place of what the library that connects them says.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo" in str(error).lower():
            raise ProcessError(f"another process of this job has ended or does not answer: {then}") from error
        raise


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
