"""One row of one peer, run inside the peer's environment: a bare pass, the quantization, the answers, their speed.

Nothing here may import what needs more than NumPy: a peer's environment has that and what the peer needs.
"""

import json
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks.peers.job import Answer, Feed, Job, Spent
from benchmarks.peers.row import FLOAT, Peer, PeerModel
from benchmarks.timing import CLOCKS, time_paired

LATENCY_FILE = "latency.json"
FLOAT_SIDE, QUANTIZED_SIDE = "float", "quantized"
_WARM_UP = 2
_ENCODER_LAYER = re.compile(r"(?:^|\.)\w*layers?\.\d+\.")


def serve(peer: Peer) -> None:
    """Answers the command line ``JOB_FOLDER RECIPE ANSWER_FOLDER``, then times the row where it is one to be timed.

    What the timing fails on costs nothing but the times: the answer is there before.
    """
    job_folder, recipe, answer_folder = sys.argv[1:]
    job, folder = Job.read(Path(job_folder)), Path(answer_folder)
    model = peer.open(job, folder)
    answer_row(peer, job, recipe, model).write(folder)
    if "latency" in peer.by_recipe[recipe].costs and job.timed:
        samples = time_row(peer.open(job, folder), model, job)
        (folder / LATENCY_FILE).write_text(json.dumps(samples), encoding="utf-8")


def answer_row(peer: Peer, job: Job, recipe: str, model: PeerModel) -> Answer:
    """The answer of one row.

    Args:
        peer: whose package is importable here.
        job: the checkpoint and its batches.
        recipe: one of the peer's, or ``float``.
        model: the peer's float model of the job; it is quantized.
    """
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


def time_row(plain: PeerModel, quantized: PeerModel, job: Job) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of processor time of both, by shape: the same batches in alternation, in the peer's own runtime."""
    found = {}
    for shape, feeds in job.timed.items():
        sides = {FLOAT_SIDE: _take_turns(plain, feeds), QUANTIZED_SIDE: _take_turns(quantized, feeds)}
        samples = time_paired(sides, seconds=job.seconds, warmup=_WARM_UP, clock=CLOCKS["processor"])
        found[shape] = {side: [round(each, 4) for each in taken.milliseconds] for side, taken in samples.items()}
    return found


def _take_turns(model: PeerModel, feeds: Sequence[Feed]) -> Callable[[], object]:
    turn = cycle(feeds)
    return lambda: model.infer(next(turn))


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
