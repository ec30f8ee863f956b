"""The task's metrics over labelled rows, whatever computes the answers: a torch model here, any runner elsewhere."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from qat.batches import Batch, IntArrays, iterate_batches, restore_order
from qat.errors import RangeError
from qat.tasks.base import Answers, Encoded, Task

Progress = Callable[[int, int], None]
Infer = Callable[[IntArrays], Answers]
"""The answers to one batch of padded inputs, by field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """A task's metrics and their sample size.

    Attributes:
        metric: the headline's name.
        value: the headline.
        metrics: every metric by name, the headline first.
        n: how many answers they are over.
        outputs: what the task kept of the answers, ``(rows, ...)`` in the order of the rows, not a number where there
            is none.
    """

    task: str
    metrics: Mapping[str, float]
    n: int
    outputs: Mapping[str, NDArray[np.float32]] = field(repr=False)

    @property
    def metric(self) -> str:
        """The headline's name."""
        return next(iter(self.metrics))

    @property
    def value(self) -> float:
        """The headline."""
        return self.metrics[self.metric]


def score_rows(
    infer: Infer,
    rows: Encoded,
    task: Task,
    *,
    pad_token_id: int,
    batch_size: int = 64,
    progress: Progress = lambda done, rows: None,
) -> Accuracy:
    """The task's metrics over every row, in batches of similar length; what is answered to padding counts nowhere.

    Raises:
        DataError: no rows, or rows without labels.
        RangeError: answers that are not finite.
    """
    outputs = answer_rows(infer, rows, task, pad_token_id=pad_token_id, batch_size=batch_size, progress=progress)
    return Accuracy(task=task.name, metrics=task.score(outputs, rows), n=rows.scored, outputs=outputs)


def answer_rows(
    infer: Infer,
    rows: Encoded,
    task: Task,
    *,
    pad_token_id: int,
    batch_size: int = 64,
    progress: Progress = lambda done, rows: None,
) -> dict[str, NDArray[np.float32]]:
    """What the task keeps of the answers to every row, in the order of the rows.

    Raises:
        RangeError: answers that are not finite.
    """
    parts: dict[str, list[tuple[Batch, NDArray[np.float32]]]] = {}
    done = broken = 0
    for batch in iterate_batches(rows, batch_size=batch_size, pad_token_id=pad_token_id, order="length"):
        wrong = np.zeros(len(batch.index), np.bool_)
        for name, (values, there) in task.keep(infer(batch.inputs), batch.inputs | batch.targets).items():
            wrong |= (there & ~np.isfinite(values)).reshape(len(values), -1).any(axis=1)
            parts.setdefault(name, []).append((batch, np.where(there, values, np.nan).astype(np.float32)))
        broken += int(wrong.sum())
        done += len(batch.index)
        progress(done, len(rows))
    if broken:
        raise RangeError(f"{broken} of {len(rows)} rows have answers that are not finite: nothing can be scored")
    return {name: restore_order(kept) for name, kept in parts.items()}


def refer_rows(infer: Infer, rows: Encoded, task: Task, *, pad_token_id: int, batch_size: int = 64) -> Encoded:
    """The rows as they are scored: where what a float model answers is right, with what ``infer`` answers.

    Raises:
        RangeError: answers that are not finite.
    """
    if not task.refers:
        return rows
    return task.refer(rows, answer_rows(infer, rows, task, pad_token_id=pad_token_id, batch_size=batch_size))


def infer_with(model: PreTrainedModel) -> Infer:
    """What answers with the outputs of ``model``, in evaluation mode, on the device it is on."""
    forward: Any = model.eval()

    def infer(inputs: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.generic]]:
        tensors = {name: torch.from_numpy(array).to(model.device) for name, array in inputs.items()}
        with torch.inference_mode():
            found: Mapping[str, Any] = forward(**tensors, return_dict=True)
        return {name: x.float().cpu().numpy() for name, x in found.items() if isinstance(x, torch.Tensor)}

    return infer
