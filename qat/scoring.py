"""The task's metric over labelled rows, whatever computes the answers: a torch model here, any runner elsewhere."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from qat.batches import Batch, IntArrays, iterate_batches, restore_order
from qat.tasks.base import Encoded, Task

Progress = Callable[[int, int], None]
Infer = Callable[[IntArrays], NDArray[np.generic]]
"""The logits of one batch of padded inputs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """A metric and its sample size; ``logits`` are in the order of the rows."""

    task: str
    metric: str
    value: float
    n: int
    logits: NDArray[np.float32] = field(repr=False)


def score_rows(
    infer: Infer,
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
    for batch in iterate_batches(rows, batch_size=batch_size, pad_token_id=pad_token_id, order="length"):
        answers.append((batch, infer(batch.inputs).astype(np.float32)))
        labels.append((batch, batch.targets["labels"]))
        done += len(batch.index)
        progress(done, len(rows))
    logits: NDArray[np.float32] = restore_order(answers)
    value = task.score(logits, restore_order(labels))
    return Accuracy(task=task.name, metric=task.metric_name, value=value, n=len(rows), logits=logits)


def infer_with(model: PreTrainedModel, output: str = "logits") -> Infer:
    """What answers with one output of ``model``, in evaluation mode, on the device it is on."""
    forward: Any = model.eval()

    def infer(inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.generic]:
        tensors = {name: torch.from_numpy(array).to(model.device) for name, array in inputs.items()}
        with torch.inference_mode():
            found: torch.Tensor = forward(**tensors, return_dict=True)[output]
        return found.float().cpu().numpy()

    return infer
