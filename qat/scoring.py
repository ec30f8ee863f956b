"""The task's metrics over labelled rows, whatever computes the answers: a torch model here, any runner elsewhere."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from qat.batches import Batch, IntArrays, Order, iterate_batches, restore_order
from qat.errors import RangeError
from qat.tasks.base import Answers, Encoded, Kept, Task
from qat.tasks.tally import Tally, add_tallies

Progress = Callable[[int, int], None]
Infer = Callable[[IntArrays], Answers]
"""The answers to one batch of padded inputs, by field."""

Keep = Callable[[Answers, Mapping[str, NDArray[Any]]], Mapping[str, Kept]]
"""What is kept of a batch's answers, given the batch; as ``Task.keep``."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Batching:
    """How rows are put into batches.

    Attributes:
        pad_token_id: what token ids are padded with.
        batch_size: rows a batch.
        streams: how many batches may be answered at the same time.
        order: which rows are in one batch.
    """

    pad_token_id: int
    batch_size: int = 64
    streams: int = 1
    order: Order = "length"


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
    batching = Batching(pad_token_id=pad_token_id, batch_size=batch_size)
    outputs = answer_rows(infer, rows, task.keep, batching=batching, progress=progress)
    return Accuracy(task=task.name, metrics=task.score(outputs, rows), n=rows.scored, outputs=outputs)


def score_parts(
    infer_of: Callable[[Encoded], Infer],
    parts: Iterable[Encoded],
    task: Task,
    *,
    batching: Batching,
    progress: Progress = lambda done, rows: None,
) -> Accuracy:
    """The task's metrics over rows that come in parts, of which one is held at a time; its ``outputs`` are empty.

    Beside that part, what is held is ``Task.count``: sums, but of metrics that rank (correlations, pairs to be found)
    every answer.

    Args:
        infer_of: what answers a part.
        parts: at least one.
        task: of the rows.
        batching: how each part is put into batches.
        progress: called after each batch with the rows done, and those read so far.

    Raises:
        DataError: rows without labels.
        RangeError: answers that are not finite.
    """
    tally: Tally | None = None
    done = scored = 0
    for rows in parts:
        before, read = done, done + len(rows)
        outputs = answer_rows(
            infer_of(rows),
            rows,
            task.keep,
            batching=batching,
            progress=lambda part, _, before=before, read=read: progress(before + part, read),  # type: ignore[misc]
        )
        found = task.count(outputs, rows)
        tally = found if tally is None else add_tallies(tally, found)
        done, scored, last = read, scored + rows.scored, rows
    assert tally is not None, "there is at least one part"
    return Accuracy(task=task.name, metrics=task.conclude(tally, last), n=scored, outputs={})


def answer_rows(
    infer: Infer,
    rows: Encoded,
    keep: Keep,
    *,
    batching: Batching,
    progress: Progress = lambda done, rows: None,
) -> dict[str, NDArray[np.float32]]:
    """What ``keep`` keeps of the answers to every row, in the order of the rows.

    Args:
        infer: called by as many threads at once as there are streams.
        rows: to be answered.
        keep: as ``Task.keep``.
        batching: which batches they make.
        progress: called after each batch with the rows done and all rows.

    Raises:
        RangeError: answers that are not finite.
    """
    parts: dict[str, list[tuple[Batch, NDArray[np.float32]]]] = {}
    done = broken = 0
    batches = iterate_batches(
        rows, batch_size=batching.batch_size, pad_token_id=batching.pad_token_id, order=batching.order
    )
    for batch, answers in _infer_ahead(infer, batches, batching.streams):
        wrong = np.zeros(len(batch.index), np.bool_)
        for name, (values, there) in keep(answers, batch.inputs | batch.targets).items():
            wrong |= (there & ~np.isfinite(values)).reshape(len(values), -1).any(axis=1)
            parts.setdefault(name, []).append((batch, np.where(there, values, np.nan).astype(np.float32)))
        broken += int(wrong.sum())
        done += len(batch.index)
        progress(done, len(rows))
    if broken:
        raise RangeError(f"{broken} of {len(rows)} rows have answers that are not finite: nothing can be scored")
    return {name: restore_order(kept) for name, kept in parts.items()}


def _infer_ahead(infer: Infer, batches: Iterable[Batch], streams: int) -> Iterator[tuple[Batch, Answers]]:
    """Every batch with its answers, in order; at most ``streams`` more are on their way."""
    if streams == 1:
        for batch in batches:
            yield batch, infer(batch.inputs)
        return
    waiting: deque[tuple[Batch, Future[Answers]]] = deque()
    with ThreadPoolExecutor(streams) as pool:
        for batch in batches:
            waiting.append((batch, pool.submit(infer, batch.inputs)))
            if len(waiting) > streams:
                first, answers = waiting.popleft()
                yield first, answers.result()
        for first, answers in waiting:
            yield first, answers.result()


def refer_rows(infer: Infer, rows: Encoded, task: Task, *, pad_token_id: int, batch_size: int = 64) -> Encoded:
    """The rows as they are scored: where what a float model answers is right, with what ``infer`` answers.

    Raises:
        RangeError: answers that are not finite.
    """
    if not task.refers:
        return rows
    batching = Batching(pad_token_id=pad_token_id, batch_size=batch_size)
    return task.refer(rows, answer_rows(infer, rows, task.keep, batching=batching))


def infer_with(model: PreTrainedModel) -> Infer:
    """What answers with the outputs of ``model``, in evaluation mode, on the device it is on."""
    forward: Any = model.eval()

    def infer(inputs: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.generic]]:
        tensors = {name: torch.from_numpy(array).to(model.device) for name, array in inputs.items()}
        with torch.inference_mode():
            found: Mapping[str, Any] = forward(**tensors, return_dict=True)
        return {name: x.float().cpu().numpy() for name, x in found.items() if isinstance(x, torch.Tensor)}

    return infer
