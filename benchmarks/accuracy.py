"""Accuracy of any runner on labelled rows, and how far two runners agree."""

from export.runners.base import Runner
from export.runners.feeding import feed_runner
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
    with runner:
        infer = feed_runner(runner, rows)
        return score_rows(infer, rows, task, pad_token_id=pad_token_id, batch_size=batch_size, progress=progress)


def share_agreeing(task: Task, rows: Encoded, first: Accuracy, second: Accuracy) -> float:
    """The share of the task's answers that are the same from two runners that were given those rows."""
    return float(task.agree(first.outputs, second.outputs, rows).mean())
