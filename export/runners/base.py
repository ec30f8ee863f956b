"""The one shape of everything that can infer: a context manager with named arrays in and named arrays out."""

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

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
