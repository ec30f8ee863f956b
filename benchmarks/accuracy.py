"""Accuracy of any runner on labelled rows: the task's metric, how many rows it rests on, and the logits behind it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from export.runners.base import Runner
from qat.batches import Batch, iterate_batches, restore_order
from qat.tasks import Task
from qat.tasks.base import Encoded

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """A metric and its sample size; ``logits`` are in the order of the rows."""

    task: str
    metric: str
    value: float
    n: int
    logits: NDArray[np.float32] = field(repr=False)


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
    answers: list[tuple[Batch, NDArray[np.float32]]] = []
    labels: list[tuple[Batch, NDArray[np.int64]]] = []
    done = 0
    with runner:
        for batch in iterate_batches(rows, batch_size=batch_size, pad_token_id=pad_token_id, order="length"):
            answer = runner.infer({name: batch.inputs[name] for name in runner.inputs})[task.outputs[0]]
            answers.append((batch, answer.astype(np.float32)))
            labels.append((batch, batch.targets["labels"]))
            done += len(batch.index)
            progress(done, len(rows))
    logits: NDArray[np.float32] = restore_order(answers)
    value = task.score(logits, restore_order(labels))
    return Accuracy(task=task.name, metric=task.metric_name, value=value, n=len(rows), logits=logits)


def share_same_argmax(first: Accuracy, second: Accuracy) -> float:
    """The share of rows for which two runners' largest logit is the same."""
    return float((first.logits.argmax(axis=-1) == second.logits.argmax(axis=-1)).mean())
