"""Training steps in NVIDIA ModelOpt's own environment, one at a time as the other side asks for them.

Started as ``python -m benchmarks.qat_step_modelopt JOB_FOLDER``. Reads names of contestants from standard input, a line
each, takes one step, and answers with the processor time this process has used, in nanoseconds.
"""

import copy
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TextIO

import torch

from benchmarks.peers.job import Job
from benchmarks.peers.modelopt_peer import ModelOptModel
from benchmarks.training_step import TrainingStep

RECIPE = "linear max"


def make_steps(job: Job) -> dict[str, TrainingStep]:
    """The steps of the float model and of the quantized one, both with eager attention."""
    opened = ModelOptModel(job, Path())
    opened.model.set_attn_implementation("eager")
    plain = copy.deepcopy(opened.model)
    unlabelled = [{name: array for name, array in feed.items() if name != "labels"} for feed in job.evaluation]
    opened.quantize(RECIPE, unlabelled)
    batches = [{name: torch.from_numpy(array) for name, array in feed.items()} for feed in job.calibration]
    return {"float": TrainingStep(plain, batches), "quantized": TrainingStep(opened.model, batches)}


def serve_steps(steps: Mapping[str, Callable[[], object]], requests: Iterable[str], answers: TextIO) -> None:
    """Says that it is ready, then takes the step of every request and says so, until there are no more."""
    answers.write(f"{time.process_time_ns()}\n")
    for line in requests:
        steps[line.strip()]()
        answers.write(f"{time.process_time_ns()}\n")


if __name__ == "__main__":
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what ModelOpt prints is no answer
    serve_steps(make_steps(Job.read(Path(sys.argv[1]))), sys.stdin, output)
