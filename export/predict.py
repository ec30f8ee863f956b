"""From texts to predictions, on any runner: rows of like length in one batch, a file of any size in constant memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from export.runners.artefact import Artefact, open_artefact
from export.runners.feeding import feed_runner
from export.runners.padded_runner import pad_to_shape
from export.runners.running import Running
from qat.batches import find_pad
from qat.data import Row, Rows
from qat.errors import DataError
from qat.scoring import Batching, answer_rows
from qat.tasks.base import Asked, Prediction

_CHUNK = 64
"""Batches that are sorted by length together: more pad less, and hold more."""

_NEW_TOKENS = 32
"""Said after a text where nobody says how many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How rows are read and answered.

    Attributes:
        columns: the task's columns as the data calls them; None for what the artefact remembers.
        max_length: tokens a row keeps; None for what the artefact remembers.
        batch_size: rows a batch.
        limit: how many rows of a file to read, None for all.
        top: how many of the likeliest answers to name.
        new_tokens: how many text-generation says after a text at most, None for 32; None for every other task.
        running: on which device of the runtime, how many batches at once.
        optimized: whether the runtime may change what was exported, as of ``load_runner``.
    """

    columns: Mapping[str, str] | None = None
    max_length: int | None = None
    batch_size: int = 32
    limit: int | None = None
    top: int = 1
    new_tokens: int | None = None
    running: Running = field(default_factory=Running)
    optimized: bool = True


class Predictor:
    """An opened artefact that answers texts; open it with ``with``. Several threads may ask it at once.

    Attributes:
        truncated: how many of the rows answered so far were longer than the model takes and lost their end.

    Args:
        artefact: a checkpoint folder, an exported folder, an ONNX file or an engine.
        task: needed for a float checkpoint only.
        asking: columns, lengths, batches; None for what the artefact remembers.
        progress: called after each batch with the rows answered so far.

    Raises:
        CheckpointError: no such artefact, or one with the tokenizer of another model.
        DataError: a float checkpoint and no task, or new tokens of a task that says none.
        BuildError: an artefact that this machine cannot run.
    """

    def __init__(
        self,
        artefact: Path | str,
        *,
        task: str | None = None,
        asking: Asking | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self._asking = asking or Asking()
        self._progress, self._done = progress, 0
        self._opened: Artefact = open_artefact(
            artefact,
            task=task,
            optimized=self._asking.optimized,
            running=self._asking.running,
            new_tokens=self._asking.new_tokens or _NEW_TOKENS,
        )
        if self._asking.new_tokens is not None and not self._opened.task.continues:
            raise DataError(
                f"{self._asking.new_tokens} new tokens were asked for, but {self.task} says nothing after a text: "
                "leave --new-tokens out"
            )
        self._pad = find_pad(self._opened.tokenizer)
        self._runner = pad_to_shape(self._opened.runner, self._opened.folder, pad_token_id=self._pad)
        self._stack = ExitStack()
        self._reading = Lock()
        self.truncated = 0

    @property
    def task(self) -> str:
        """The task's name."""
        return self._opened.task.name

    def __enter__(self) -> Self:
        self._stack.enter_context(self._runner)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def predict(self, rows: Sequence[str | Row]) -> list[Prediction]:
        """What the model says of each text, or of each row under the names of the task's columns.

        Raises:
            DataError: rows the task cannot use, an empty text among them.
            RangeError: answers that are not finite.
            BuildError: more rows a batch, or more tokens, than the profiles of an engine take.
        """
        if not rows:
            return []
        size = self._asking.batch_size * _CHUNK
        parts = [self._read(rows[start : start + size], start + 1) for start in range(0, len(rows), size)]
        return [told for part in parts for told in self._answer(part)]

    def stream(self, source: Path | str) -> Iterator[list[Prediction]]:
        """The same of every row of a file, in its order, some thousand at a time; no more of it is held.

        Raises:
            DataError: a file that cannot be read, or rows the task cannot use, when it comes to them.
            RangeError: answers that are not finite.
            BuildError: as ``predict``.
        """
        columns = self._opened.columns if self._asking.columns is None else self._asking.columns
        size = self._asking.batch_size * _CHUNK
        for rows in self._opened.task.stream(source, columns=columns, limit=self._asking.limit, size=size):
            yield self._answer(rows)

    def _read(self, rows: Sequence[str | Row], first: int) -> Rows:
        names = self._opened.task.columns.required
        if any(isinstance(row, str) for row in rows) and "text" not in names and "tokens" not in names:
            raise DataError(
                f"{self.task} reads {', '.join(names)}, but a text alone was given: give rows with these columns, as a "
                "file with --data or as mappings from Python"
            )
        return Rows([{"text": row} if isinstance(row, str) else row for row in rows], "the texts given", first)

    def _answer(self, rows: Rows) -> list[Prediction]:
        opened, asking = self._opened, self._asking
        reading: dict[str, Any] = {"tokenizer": opened.tokenizer, "config": opened.config}
        with self._reading:  # a tokenizer changes while it cuts a text, and would cut those of other threads
            encoded = opened.task.ask(rows, max_length=asking.max_length or opened.max_length, **reading)
            self.truncated += encoded.truncated
        batching = Batching(pad_token_id=self._pad, batch_size=asking.batch_size, streams=asking.running.at_once)
        keep = partial(_hold, opened, asking.top)
        outputs = answer_rows(
            feed_runner(self._runner, encoded),
            encoded,
            keep,
            batching=batching,
            progress=lambda done, _: self._progress(self._done + done),
        )
        self._done += len(rows)
        return opened.task.explain(outputs, Asked(rows=rows, encoded=encoded, top=asking.top, **reading))


def _hold(opened: Artefact, top: int, answers: Any, given: Any) -> Any:
    return opened.task.hold(answers, given, top)


def predict(
    artefact: Path | str,
    rows: Sequence[str | Row],
    *,
    task: str | None = None,
    asking: Asking | None = None,
) -> list[Prediction]:
    """What an artefact says of each text: a label, a span, entities, a choice, filled masks, a vector, what follows.

    To ask more than once, or a file of any size, open a ``Predictor``.

    Args:
        artefact: a checkpoint folder, an exported folder, an ONNX file or an engine.
        rows: texts, or rows under the names of the task's columns.
        task: needed for a float checkpoint only.
        asking: lengths, batches, the device; None for what the artefact remembers.

    Raises:
        CheckpointError: no such artefact, or one with the tokenizer of another model.
        DataError: rows the task cannot use.
        BuildError: an artefact that this machine cannot run.
    """
    with Predictor(artefact, task=task, asking=asking) as predictor:
        return predictor.predict(rows)
