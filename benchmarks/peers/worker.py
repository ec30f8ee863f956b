"""One row of one peer, run inside the peer's environment: a bare pass, the quantization, the answers.

Nothing here may import the rest of the project: a peer's environment has NumPy and what the peer needs.
"""

import platform
import re
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.peers.job import Answer, Job, Spent
from benchmarks.peers.row import FLOAT, Peer

_ENCODER_LAYER = re.compile(r"(?:^|\.)\w*layers?\.\d+\.")


def serve(peer: Peer) -> None:
    """Answers the command line ``JOB_FOLDER RECIPE ANSWER_FOLDER``."""
    job_folder, recipe, answer_folder = sys.argv[1:]
    folder = Path(answer_folder)
    answer_row(peer, Job.read(Path(job_folder)), recipe, folder).write(folder)


def answer_row(peer: Peer, job: Job, recipe: str, folder: Path) -> Answer:
    """The answer of one row.

    Args:
        peer: whose package is importable here.
        job: the checkpoint and its batches.
        recipe: one of the peer's, or ``float``.
        folder: where the peer may leave files.
    """
    model = peer.open(job, folder)
    model.infer(job.calibration[0])  # the first batch of a process pays for allocations
    inference = time_call(lambda: [model.infer(feed) for feed in job.calibration])
    quantization = None if recipe == FLOAT else time_call(lambda: model.quantize(recipe, job.calibration))
    logits = np.concatenate([model.infer(feed) for feed in job.evaluation]).astype(np.float32)
    return Answer(
        inference=inference,
        quantization=quantization,
        peak_mb=_peak_megabytes(),
        inside=None if recipe == FLOAT else model.describe(),
        versions={"python": platform.python_version(), **{name: version(name) for name in peer.packages}},
        logits=logits,
    )


def time_call(work: Callable[[], object]) -> Spent:
    """What a call took, on the wall and of this process's processor time, to the millisecond."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent(round(time.perf_counter() - wall, 6), round(time.process_time() - cpu, 6))


def is_in_encoder_layer(path: str) -> bool:
    """Whether a module's path, or a node's name that starts with one, lies in one of the encoder's layers.

    >>> [is_in_encoder_layer(f"{path}.query") for path in ("bert.encoder.layer.0.attention.self", "bert.pooler")]
    [True, False]
    >>> is_in_encoder_layer("albert.encoder.albert_layer_groups.0.albert_layers.0.ffn/MatMul")
    True
    """
    return _ENCODER_LAYER.search(path) is not None


def _peak_megabytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))  # macOS counts bytes, Linux kilobytes
