"""Encoded rows as a runner's inputs."""

import numpy as np
from numpy.typing import NDArray

from export.runners.base import Arrays, Runner
from qat.errors import DataError
from qat.scoring import Infer
from qat.tasks.base import Encoded


def feed_runner(runner: Runner, rows: Encoded) -> Infer:
    """What answers batches of these rows with an opened runner; rows without segments are all segment 0.

    Raises:
        DataError: rows with segments or a number of choices that the runner does not take.
    """
    _require_fitting(runner, rows)

    def infer(inputs: dict[str, NDArray[np.int64]]) -> Arrays:
        blank = np.zeros_like(inputs["input_ids"])
        return runner.infer({name: inputs.get(name, blank) for name in runner.inputs})

    return infer


def _require_fitting(runner: Runner, rows: Encoded) -> None:
    if "token_type_ids" in rows[0] and "token_type_ids" not in runner.inputs:
        raise DataError(
            f"{rows.source} has pairs of texts, but this artefact takes no token_type_ids: it was calibrated on single "
            "texts; calibrate the float checkpoint on pairs"
        )
    if "position_ids" in runner.inputs:
        raise DataError(
            f"{rows.source} has no position_ids, which this artefact takes: score one that was exported without them"
        )
    for name, axes in runner.inputs.items():
        clash = [
            (takes, has)
            for takes, has in zip(axes, rows.axes, strict=False)
            if isinstance(takes, int) and isinstance(has, int) and takes not in (has, -1)
        ]
        if len(axes) != len(rows.axes) or clash:
            raise DataError(
                f"{rows.source} has rows of {_write_axes(rows.axes)}, but the input {name} of this artefact takes "
                f"{_write_axes(axes)}: give rows with as many choices, or export the checkpoint calibrated on these"
            )


def _write_axes(axes: tuple[int | str, ...]) -> str:
    return "x".join(map(str, axes))
