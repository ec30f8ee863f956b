"""Accuracy of any runner on labelled rows, and how far two runners agree."""

from export.runners.base import Runner
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
    """The task's metric over every row, in batches of similar length.

    Raises:
        DataError: no rows, or rows without labels.
        RangeError: answers that are not finite.
    """
    with runner:
        return score_rows(
            lambda inputs: runner.infer({name: inputs[name] for name in runner.inputs})[task.outputs[0]],
            rows,
            task,
            pad_token_id=pad_token_id,
            batch_size=batch_size,
            progress=progress,
        )


def share_same_argmax(first: Accuracy, second: Accuracy) -> float:
    """The share of rows for which two runners' largest logit is the same."""
    return float((first.logits.argmax(axis=-1) == second.logits.argmax(axis=-1)).mean())
