"""Every calibration method on one checkpoint: ``python -m benchmarks.methods CHECKPOINT --data FILE --eval FILE``.

One calibration a placement keeps the ranges of all methods; each is scored on the same rows as the float model, so
that differences have a paired standard error. Controls stand beside the claims: ``best`` without equalization, and a
shared layer with one range for all of its depths.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from transformers import PreTrainedModel

from benchmarks.environment import describe_environment
from benchmarks.peers.score import Correct, difference, judge_rows, pack_rows
from calibration.calibrate import Calibration
from calibration.candidates import merge_depths, set_ranges
from calibration.quantize import quantize_rows
from calibration.ranges import METHODS
from calibration.settings import ALL, BEST, CalibrationSettings
from qat.artefacts import require_writable, write_json
from qat.checkpoint import Checkpoint, load_checkpoint
from qat.commands import encode_rows
from qat.console import print_json, say, show_stages
from qat.errors import RecipeError, suggest
from qat.recipe import Recipe, WeightGranularity
from qat.scoring import infer_with, score_rows
from qat.tasks import find_task
from qat.tasks.base import Encoded, Task
from qat.tasks.record import TaskRecord

PLACEMENTS: dict[str, tuple[str, WeightGranularity]] = {
    "linear/channel": ("linear", "per_channel"),
    "tensorrt/channel": ("tensorrt", "per_channel"),
    "tensorrt/tensor": ("tensorrt", "per_tensor"),
    "lean/tensor": ("lean", "per_tensor"),
    "qdqbert/channel": ("qdqbert", "per_channel"),
}
_TASK = "text-classification"
_TARGETS = {"per_channel": "tensorrt", "per_tensor": "rtx"}


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodRow:
    """What one method came to.

    Attributes:
        placement: recipe and weight granularity, or ``float``.
        method: of ``calibration.ranges``, ``best``, or a control.
        accuracy: in percent; ``recovered`` its share of the float model's, in percent.
        points: minus the float model's accuracy, in points; ``error`` its paired standard error.
        agreement: the share of rows, in percent, with the float model's answer.
        correct: one character a row, 1 where it is right.
    """

    placement: str
    method: str
    accuracy: float
    recovered: float
    points: float
    error: float
    agreement: float
    correct: str


class Judge:
    """Scores a model on the same labelled rows as the float model."""

    def __init__(self, checkpoint: Checkpoint, task: Task, rows: Encoded) -> None:
        self._task, self._rows = task, rows
        self._pad = checkpoint.pad_token_id
        self._labels = rows.read("labels").astype(np.int64)
        self._float = self._answer(checkpoint.model)

    def _answer(self, model: PreTrainedModel) -> tuple[Correct, Correct]:
        logits = score_rows(infer_with(model), self._rows, self._task, pad_token_id=self._pad).outputs["logits"]
        return judge_rows(logits, self._labels), logits.argmax(axis=-1)

    def score(self, model: PreTrainedModel, placement: str, method: str) -> MethodRow:
        """The row of ``model`` as it is now."""
        correct, chosen = self._answer(model)
        apart = difference(correct, self._float[0])
        return MethodRow(
            placement=placement,
            method=method,
            accuracy=100 * float(correct.mean()),
            recovered=100 * float(correct.mean() / self._float[0].mean()),
            points=apart.points,
            error=apart.error,
            agreement=100 * float((chosen == self._float[1]).mean()),
            correct=pack_rows(correct),
        )


def score_placement(
    checkpoint: Path, placement: str, data: Encoded, judge: Judge, methods: Collection[str]
) -> Iterator[MethodRow]:
    """A row for each of those methods, and for its controls where they differ, as soon as each is there."""
    model, found = _calibrate(checkpoint, placement, data, CalibrationSettings(method=ALL))
    shared = any(len(ranges) > 1 for ranges in found.candidates[BEST].values())
    for method, ranges in found.candidates.items():
        if method not in methods:
            continue
        set_ranges(model, ranges)
        yield judge.score(model, placement, method)
        if shared and method in ("max", BEST):
            set_ranges(model, merge_depths(ranges))
            yield judge.score(model, placement, f"{method}, depths merged")
    if BEST in methods and found.equalization is not None and found.equalization.channels:
        model, _ = _calibrate(checkpoint, placement, data, CalibrationSettings(method=BEST, equalize=False))
        yield judge.score(model, placement, f"{BEST}, not equalized")


def _calibrate(
    checkpoint: Path, placement: str, data: Encoded, settings: CalibrationSettings
) -> tuple[PreTrainedModel, Calibration]:
    recipe, weights = PLACEMENTS[placement]
    loaded = load_checkpoint(checkpoint, find_task(_TASK))
    chosen = Recipe.load(recipe).model_copy(update={"weights": weights})
    done = quantize_rows(loaded, data, chosen, target=_TARGETS[weights], settings=settings)
    return loaded.model, done.calibration


def draw_rows(rows: Sequence[MethodRow]) -> str:
    """The rows as lines of text of at most 80 columns."""
    head = f"{'placement':17} {'method':22} {'acc %':>6} {'of FP32':>7}  {'points':>14}  {'agree %':>7}"
    lines = [
        f"{row.placement:17} {row.method:22} {row.accuracy:6.2f} {row.recovered:7.2f}  "
        f"{row.points:+6.2f} ± {row.error:4.2f}  {row.agreement:8.2f}"
        for row in rows
    ]
    return "\n".join([head, "-" * len(head), *lines])


def methods_command(
    checkpoint: Annotated[Path, typer.Argument(help="Float checkpoint folder, fine-tuned on text classification.")],
    data: Annotated[Path, typer.Option(help="Rows to calibrate on.")],
    evaluation: Annotated[Path, typer.Option("--eval", help="Labelled rows to score on.")],
    out: Annotated[Path, typer.Option(help="JSON file of all rows.")],
    texts: Annotated[int, typer.Option(min=1, help="How many rows calibrate.")] = 512,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A placement, or a method; may be given several times.")
    ] = None,
) -> None:
    """Score every calibration method in every placement; the last line is JSON.

    Example: python -m benchmarks.methods my-bert --data train.jsonl --eval dev.jsonl --out methods.json
    """
    placements, methods = _choose(only or [])
    require_writable(out)
    task = find_task(_TASK)
    loaded = load_checkpoint(checkpoint, task)
    record = TaskRecord(name=task.name)
    calibration = encode_rows(loaded, task, record, data, texts, require_labels=False)
    scored = encode_rows(loaded, task, record, evaluation)
    rows: list[MethodRow] = []
    with show_stages() as advance:
        advance("float", 0, len(placements) + 1)
        judge = Judge(loaded, task, scored)
        rows.append(judge.score(loaded.model, "float", "-"))
        for done, placement in enumerate(placements, start=1):
            advance(placement, done, len(placements) + 1)
            rows.extend(score_placement(checkpoint, placement, calibration, judge, methods))
            write_json(out, _describe(checkpoint, texts, scored, rows))
    say(f"{checkpoint.name}: {len(scored)} rows scored, {texts} calibrate\n{draw_rows(rows)}")
    print_json({"out": str(out), "rows": [{**asdict(row), "correct": ""} for row in rows]})


def _choose(only: Sequence[str]) -> tuple[list[str], list[str]]:
    """The placements and the methods among those names; all of a kind where none is named."""
    every = (*METHODS, BEST)
    for name in only:
        if name not in PLACEMENTS and name not in every:
            known = (*PLACEMENTS, *every)
            raise RecipeError(f"'{name}' is neither a placement nor a method: {suggest(name, known)}")
    return [x for x in PLACEMENTS if x in only] or [*PLACEMENTS], [x for x in every if x in only] or [*every]


def _describe(checkpoint: Path, texts: int, scored: Encoded, rows: Sequence[MethodRow]) -> dict[str, object]:
    return {
        "checkpoint": checkpoint.name,
        "calibration_rows": texts,
        "scored_rows": len(scored),
        "rows": [asdict(row) for row in rows],
        "environment": describe_environment(),
    }


if __name__ == "__main__":
    typer.run(methods_command)
