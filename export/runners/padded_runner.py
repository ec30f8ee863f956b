"""A graph of one shape as a runner of any batch: rows are padded to it, and the answers cut again."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from export.onnx_export import AXES
from export.runners.base import Arrays, Runner
from qat.artefacts import read_manifest
from qat.errors import DataError

_IDS = "input_ids"


class PaddedRunner:
    """Runs batches of any size and of shorter rows through a graph of one shape; open it with ``with``.

    Further rows repeat the last one; further tokens are padding, which changes no answer but ConvBERT's.

    Args:
        runner: of a graph whose inputs are all ``(batch, sequence)``, both fixed.
        token_outputs: the outputs that have an answer a token on axis 1.
        pad_token_id: what ``input_ids`` are padded with; everything else is with 0.
    """

    def __init__(self, runner: Runner, *, token_outputs: tuple[str, ...], pad_token_id: int) -> None:
        self.name = runner.name
        self.precision = runner.precision
        self.inputs: Mapping[str, tuple[int | str, ...]] = dict.fromkeys(runner.inputs, AXES)
        (self._sizes,) = set(runner.inputs.values())
        self._runner = runner
        self._token_outputs = token_outputs
        self._pad = pad_token_id

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.__exit__(kind, error, trace)

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """The outputs by name, for the rows and tokens given.

        Raises:
            DataError: rows longer than the graph's.
        """
        rows, tokens = feed[_IDS].shape
        batch, longest = (int(size) for size in self._sizes)
        if tokens > longest:
            raise DataError(
                f"rows of {tokens} tokens were given, but the graph takes {longest}: cut them with "
                f"--max-length {longest}, or export again with a longer export.shape"
            )
        parts = [self._infer_part(feed, slice(start, start + batch)) for start in range(0, rows, batch)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _infer_part(self, feed: Mapping[str, NDArray[np.generic]], part: slice) -> Arrays:
        given = {name: feed[name][part] for name in self.inputs}
        rows, tokens = given[_IDS].shape
        answers = self._runner.infer({name: self._fill(name, array) for name, array in given.items()})
        return {
            name: array[:rows, :tokens] if name in self._token_outputs else array[:rows]
            for name, array in answers.items()
        }

    def _fill(self, name: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
        batch, longest = (int(size) for size in self._sizes)
        rows, tokens = array.shape
        wide = np.pad(array, ((0, 0), (0, longest - tokens)), constant_values=self._pad if name == _IDS else 0)
        return np.pad(wide, ((0, batch - rows), (0, 0)), mode="edge")


def pad_to_shape(runner: Runner, folder: Path, *, pad_token_id: int) -> Runner:
    """The runner of an exported folder's graph, padding batches where that takes one shape alone; else as it is."""
    shapes = set(runner.inputs.values())
    if len(shapes) != 1 or not all(isinstance(size, int) for size in next(iter(shapes))):
        return runner
    listed = read_manifest(folder).get("token_outputs")
    if not isinstance(listed, list) or len(next(iter(shapes))) != len(AXES):
        return runner  # nobody says which answers belong to tokens: the runner refuses what does not fit
    return PaddedRunner(runner, token_outputs=tuple(map(str, listed)), pad_token_id=pad_token_id)
