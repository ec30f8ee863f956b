"""The models whose training steps are compared: the float checkpoint, and ours as ``qdq calibrate`` makes them."""

import gc
import multiprocessing
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.memory import peak_megabytes
from benchmarks.peers.job import Feed
from benchmarks.training_step import TrainingStep
from calibration.quantize import quantize_model
from calibration.settings import CalibrationSettings
from qat.batches import iterate_batches
from qat.checkpoint import load_checkpoint
from qat.commands import encode_rows
from qat.fused_kernels import composed_only
from qat.recipe import Recipe, WeightGranularity
from qat.tasks import find_task
from qat.tasks.record import TaskRecord

FLOAT = "float"
_TASK = "text-classification"
_CALIBRATION_BATCHES = 4
_MEMORY_STEPS = 3
_NO_HOLES = {"MALLOC_MMAP_THRESHOLD_": str(512 * 1024)}
"""What keeps glibc from growing the size from which blocks are mapped one by one (mallopt(3))."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What of a model is quantized (a shipped recipe, the granularity of its weights), and whether by fused kernels."""

    recipe: str
    weights: WeightGranularity
    fused: bool = True


PLACEMENTS: Mapping[str, Placement] = {
    "full": Placement("tensorrt", "per_tensor"),
    "linear": Placement("linear", "per_tensor"),
    "linear_channel": Placement("linear", "per_channel"),
    "composed": Placement("tensorrt", "per_tensor", fused=False),
}
_TARGETS: Mapping[WeightGranularity, str] = {"per_tensor": "rtx", "per_channel": "onnxruntime"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What is trained on what.

    Attributes:
        checkpoint: a float checkpoint folder.
        data: labelled rows.
        texts: how many of them are read.
        batch_size: rows a step.
        threads: of torch.
    """

    checkpoint: Path
    data: Path
    texts: int
    batch_size: int
    threads: int


def read_feeds(setting: Setting) -> list[Feed]:
    """The rows with their labels in full batches of like length, the batches shuffled by a fixed seed."""
    task = find_task(_TASK)
    loaded = load_checkpoint(setting.checkpoint, task)
    encoded = encode_rows(loaded, task, TaskRecord(name=task.name), setting.data, setting.texts)
    pad = loaded.pad_token_id
    batches = iterate_batches(encoded, batch_size=setting.batch_size, pad_token_id=pad, order="length")
    whole = (batch for batch in batches if len(batch.index) == setting.batch_size)
    feeds: list[Any] = [{**batch.inputs, **batch.targets} for batch in whole]
    random.Random(0).shuffle(feeds)
    return feeds


def make_step(name: str, setting: Setting, feeds: Sequence[Feed]) -> TrainingStep:
    """The training steps of ``float`` or of one of ``PLACEMENTS``, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = [{key: torch.from_numpy(array).to(device) for key, array in feed.items()} for feed in feeds]
    model = load_checkpoint(setting.checkpoint, find_task(_TASK)).model
    if name == FLOAT:
        model.set_attn_implementation("eager")
    else:
        _quantize(model, PLACEMENTS[name], feeds)
    torch.nn.Module.to(model, device)
    fused = name == FLOAT or PLACEMENTS[name].fused
    return TrainingStep(model, batches, around=nullcontext if fused else composed_only)


def _quantize(model: PreTrainedModel, placement: Placement, feeds: Sequence[Feed]) -> None:
    inputs = ({key: torch.from_numpy(array) for key, array in feed.items()} for feed in feeds[:_CALIBRATION_BATCHES])
    recipe = Recipe.load(placement.recipe).model_copy(update={"weights": placement.weights})
    settings = CalibrationSettings(method="max")
    quantize_model(model, inputs, recipe, target=_TARGETS[placement.weights], settings=settings)


def measure_memory(name: str, setting: Setting, *, holes: bool) -> float | None:
    """The peak of memory in MB of some steps on the longest batch, from before the model was loaded.

    Runs in a process of its own, where nothing else has been allocated and freed. On a GPU it is the GPU's memory; None
    where the system does not tell.

    Args:
        name: ``float`` or one of ``PLACEMENTS``.
        setting: what is trained on what.
        holes: whether what is freed may stay with the process, as glibc keeps it for later; without, every block of
            512 KiB and more goes back to the system at once, and the peak is of what is in use.
    """
    context = multiprocessing.get_context("spawn")
    with _environment({} if holes else _NO_HOLES), ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure_here, name, setting).result()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Inside the block processes start with those variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _measure_here(name: str, setting: Setting) -> float | None:
    torch.set_num_threads(setting.threads)
    feeds = read_feeds(setting)
    longest = [max(feeds, key=lambda feed: np.size(feed["input_ids"]))] * _MEMORY_STEPS
    gc.collect()
    before = peak_megabytes(lambda: None)
    step = make_step(name, setting, longest)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        run_steps(step)
        return torch.cuda.max_memory_allocated() / 1e6
    peak = peak_megabytes(partial(run_steps, step))
    return None if peak is None or before is None else peak - before


def run_steps(step: TrainingStep) -> None:
    """Takes as many steps as memory needs to reach its peak."""
    for _ in range(_MEMORY_STEPS):
        step()
