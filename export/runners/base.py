"""The one shape of everything that can infer: a context manager with named arrays in and named arrays out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from qat.errors import CheckpointError, DataError

Arrays = dict[str, NDArray[np.generic]]


class AlwaysOpen:
    """What a runner inherits that holds nothing to open or close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Runner(Protocol):
    """A loaded model: opened by ``with``, fed named arrays, answering named arrays.

    ``name`` says which engine runs (``torch``, ``onnxruntime``, ...), ``precision`` what it was built in (``fp32``,
    ``int8+fp16``, ...); ``inputs`` maps each input's name to its shape, dynamic axes by name.
    """

    name: str
    precision: str
    inputs: Mapping[str, tuple[int | str, ...]]

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """The outputs by name, one array each, for one batch; blocks until they are ready."""
        ...


def require_shapes(runner: Runner, feed: Mapping[str, NDArray[np.generic]]) -> None:
    """Passes when a feed has the sizes of every axis that is fixed in the runner's graph.

    Raises:
        DataError: it has others.
    """
    for name, axes in runner.inputs.items():
        given = feed[name].shape
        if len(given) != len(axes) or any(isinstance(a, int) and a != b for a, b in zip(axes, given, strict=True)):
            raise DataError(
                f"{runner.name} was given {name} of shape {_write(given)}, but the graph takes {_write(axes)}: "
                "feed that shape (qdq evaluate pads to it), or export again without export.shape"
            )


def refuse_run(runtime: str, path: Path, feed: Mapping[str, NDArray[np.generic]], reason: str) -> CheckpointError:
    """The error for a graph that was loaded and fails where it is run."""
    shapes = ", ".join(f"{name} of {_write(array.shape)}" for name, array in feed.items())
    return CheckpointError(f"{path} was loaded and cannot be run by {runtime} on {shapes}: {reason}; export it again")


def _write(shape: Sequence[int | str]) -> str:
    return "x".join(map(str, shape))
