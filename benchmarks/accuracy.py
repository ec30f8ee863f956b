"""Accuracy of any runner on labelled rows, and how far two runners agree."""

import numpy as np
from numpy.typing import NDArray

from export.runners.base import Arrays, Runner
from qat.errors import DataError
from qat.scoring import Accuracy, Progress, score_rows
from qat.tasks import Task
from qat.tasks.base import Encoded


def measure_accuracy(
    runner: Runner,
    rows: Encoded,
    task: Task,
    *,
    pad_token_id: int,
    batch_size: int = 64,
    progress: Progress = lambda done, rows: None,
) -> Accuracy:
    """The task's metrics over every row, in batches of similar length.

    Raises:
        DataError: no rows, rows without labels, or with segments or a number of choices that the runner does not take.
        RangeError: answers that are not finite.
    """
    _require_fitting(runner, rows)

    def infer(inputs: dict[str, NDArray[np.int64]]) -> Arrays:
        blank = np.zeros_like(inputs["input_ids"])  # rows without segments are all segment 0
        return runner.infer({name: inputs.get(name, blank) for name in runner.inputs})

    with runner:
        return score_rows(infer, rows, task, pad_token_id=pad_token_id, batch_size=batch_size, progress=progress)


def share_agreeing(task: Task, rows: Encoded, first: Accuracy, second: Accuracy) -> float:
    """The share of the task's answers that are the same from two runners that were given those rows."""
    return float(task.agree(first.outputs, second.outputs, rows).mean())


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
