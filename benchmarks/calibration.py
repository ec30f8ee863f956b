"""What collecting ranges costs beside bare inference: ``python -m benchmarks.calibration``.

Every batch runs twice, bare (the float checkpoint as transformers loads it) and collecting (the wrapped model with
every observer on), one right after the other and in changing order, so that a noisy machine is unfair to neither.
Then the histogram methods run here and in NVIDIA ModelOpt's own environment (``benchmarks.calibration_peers``).
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.calibration_peers import MethodCost, compare_methods, plan_contest, time_best
from benchmarks.environment import describe_environment
from benchmarks.memory import peak_megabytes
from benchmarks.sample import CHECKPOINT, TRAIN
from calibration.calibrate import evaluating, observe_batches
from calibration.candidates import find_candidates
from calibration.observers import RangeObserver
from calibration.settings import ALL, CalibrationSettings
from qat.batches import drop_targets, iterate_batches
from qat.checkpoint import load_checkpoint
from qat.commands import encode_rows
from qat.console import print_json, print_table
from qat.huggingface import wrap
from qat.quantizer import disable_quantizers
from qat.tasks import find_task
from qat.tasks.record import TaskRecord

Batch = Mapping[str, Tensor]
_WARM_UP = 2
_BEST_TEXTS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationCost:
    """The figures of one run.

    Attributes:
        texts, tokens, ranges: how much was read, and for how many ranges.
        bare_s: all batches through the float checkpoint.
        all_s: the same batches with every observer on.
        ratio_all: the second by the first.
        ratio_batches: the median of that ratio over the batches.
        search_s: the ranges of every method for all quantizers, from the histograms.
        linearity: seconds a token of the second half of the batches by those of the first, collecting.
        peak_ratio: the largest resident memory of the process while collecting by that of bare inference, on the first
            quarter of the batches; None where the system does not tell.
        peak_bare_mb: the latter.
        growth_mb: how much the peak rose over the other three quarters.
    """

    texts: int
    tokens: int
    ranges: int
    bare_s: float
    all_s: float
    ratio_all: float
    ratio_batches: float
    search_s: float
    linearity: float
    peak_ratio: float | None
    peak_bare_mb: float | None
    growth_mb: float | None


def measure_cost(bare: PreTrainedModel, wrapped: PreTrainedModel, batches: Sequence[Batch]) -> CalibrationCost:
    """What collecting costs on those batches.

    Args:
        bare: the float model.
        wrapped: the same, wrapped.
        batches: keyword arguments of ``forward``, at least four.
    """
    quarter = batches[: len(batches) // 4]
    with torch.no_grad(), evaluating(bare):
        peak_bare = peak_megabytes(lambda: [bare(**batch) for batch in quarter])
        peak_quarter = peak_megabytes(lambda: observe_batches(wrapped, quarter))
        observer = RangeObserver(wrapped)
        times: list[tuple[float, float]] = []
        peak_whole = peak_megabytes(lambda: times.extend(_time_pairs(bare, wrapped, batches, observer)))
    bare_s, all_s = np.array(times).T
    started = time.perf_counter()
    find_candidates(observer.histograms, CalibrationSettings(method=ALL))
    search_s = time.perf_counter() - started
    tokens = np.array([int(batch["attention_mask"].sum()) for batch in batches])
    half = len(batches) // 2
    rates = [float(all_s[part].sum() / tokens[part].sum()) for part in (slice(half), slice(half, None))]
    return CalibrationCost(
        texts=observer.rows - sum(len(batch["input_ids"]) for batch in batches[:_WARM_UP]),
        tokens=int(tokens.sum()),
        ranges=sum(map(len, observer.histograms.values())),
        bare_s=float(bare_s.sum()),
        all_s=float(all_s.sum()),
        ratio_all=float(all_s.sum() / bare_s.sum()),
        ratio_batches=float(np.median(all_s / bare_s)),
        search_s=search_s,
        linearity=rates[1] / rates[0],
        peak_ratio=None if peak_bare is None or peak_quarter is None else peak_quarter / peak_bare,
        peak_bare_mb=peak_bare,
        growth_mb=None if peak_whole is None or peak_quarter is None else max(0.0, peak_whole - peak_quarter),
    )


def _time_pairs(
    bare: PreTrainedModel, wrapped: PreTrainedModel, batches: Sequence[Batch], observer: RangeObserver
) -> list[tuple[float, float]]:
    def collect(batch: Batch) -> None:
        with disable_quantizers(wrapped), observer.watching(wrapped):
            observer.begin(batch, 0)
            wrapped(**batch)
            observer.finish(0)

    def clock(run: Callable[[], object]) -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    times = []
    for number, batch in enumerate([*batches[:_WARM_UP], *batches]):
        runs: tuple[Callable[[], object], ...] = (partial(bare, **batch), partial(collect, batch))
        order = (0, 1) if number % 2 else (1, 0)
        taken = {which: clock(runs[which]) for which in order}
        times.append((taken[0], taken[1]))
    return times[_WARM_UP:]


def read_batches(checkpoint: Path, data: Path, texts: int, batch_size: int) -> list[Batch]:
    """The rows in batches of like length, the batches shuffled by a fixed seed."""
    task = find_task("text-classification")
    loaded = load_checkpoint(checkpoint, task)
    encoded = encode_rows(loaded, task, TaskRecord(name=task.name), data, texts, require_labels=False)
    pad = loaded.pad_token_id
    found = [
        drop_targets(batch.to_tensors())
        for batch in iterate_batches(encoded, batch_size=batch_size, pad_token_id=pad, order="length")
    ]
    random.Random(0).shuffle(found)
    return list(found)


def calibration_command(
    checkpoint: Annotated[Path, typer.Option(help="Float checkpoint folder.")] = CHECKPOINT,
    data: Annotated[Path, typer.Option(help="Rows with a text.")] = TRAIN,
    texts: Annotated[int, typer.Option(min=128, help="How many rows.")] = 4096,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a batch.")] = 32,
    recipe: Annotated[str, typer.Option(help="What is observed.")] = "tensorrt",
    peers: Annotated[bool, typer.Option(help="Also time NVIDIA ModelOpt's calibrators on the same rows.")] = True,  # noqa: FBT002
) -> None:
    """Measure what collecting ranges costs beside bare inference; the last line is JSON.

    Example: python -m benchmarks.calibration --texts 1024
    """
    task = find_task("text-classification")
    bare, wrapped = (load_checkpoint(checkpoint, task).model for _ in range(2))
    wrap(wrapped, recipe)
    cost = asdict(measure_cost(bare, wrapped, read_batches(checkpoint, data, texts, batch_size)))
    print_table(f"{checkpoint}, recipe {recipe}", ("figure", "value"), list(cost.items()))
    methods: list[MethodCost] = []
    best: dict[str, float | str] = {}
    if peers:
        threads = torch.get_num_threads()
        methods = compare_methods(plan_contest(checkpoint, data, texts, batch_size, threads))
        headers = ("method", "ours cpu s", "ModelOpt cpu s", "times", "error")
        rows = [(each.method, each.ours, each.theirs, each.times, each.error) for each in methods]
        print_table("linear placement, from float to quantized", headers, rows)
        best = time_best(plan_contest(checkpoint, data, min(texts, _BEST_TEXTS), batch_size, threads))
        print_table("from float to quantized, cpu s", ("recipe", "cpu s"), list(best.items()))
    print_json({
        "checkpoint": checkpoint.name,
        "recipe": recipe,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        **cost,
        "modelopt": [asdict(each) for each in methods],
        "best": best,
        "environment": describe_environment(),
    })  # fmt: skip


if __name__ == "__main__":
    typer.run(calibration_command)
