"""``python -m tests.soak``: minutes of threads at a predictor of either runtime, then a million rows; a JSON line each.

    python -m tests.soak --minutes 10 --rows 1000000

Ends with exit code 1 where an answer was wrong, or memory grew by more than ``tests/tolerances.py`` lets it.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.command_line import app
from benchmarks.sample import CHECKPOINT, TRAIN, VALIDATION
from export.predict import Predictor
from tests.soak.serving import THREADS, make_requests, serve
from tests.soak.streaming import calibration, evaluation, peaks_mb, save_model, write_rows
from tests.tolerances import STREAMED

RUNTIMES = ("onnxruntime", "openvino")
_TEXTS = 200


def serve_sample(runtime: str, minutes: float, folder: Path) -> dict[str, Any]:
    """What came of the threads that asked the shipped sample, quantized, on this runtime."""
    found = [folder / f"{runtime}-calibrated", folder / runtime]
    task, target = ("--task", "text-classification"), ("--target", runtime)
    for command in (
        ("calibrate", CHECKPOINT, *task, *target, "--data", TRAIN, "--method", "max", "--out", found[0]),
        ("export", found[0], "--out", found[1]),
    ):
        app(args=[str(each) for each in command], standalone_mode=False)
    texts = [json.loads(line)["text"] for line in VALIDATION.read_text(encoding="utf-8").splitlines()[:_TEXTS]]
    with Predictor(found[1]) as predictor:
        served = serve(predictor, make_requests(texts), go_on=lambda done, seconds: seconds < 60 * minutes)
    return {
        "soak": f"{THREADS} threads at {runtime}",
        "minutes": minutes,
        "requests": served.requests,
        "texts": served.texts,
        "wrong": served.wrong,
        "memory_mb": [round(served.memory_mb[0]), round(served.settled_mb), round(max(served.memory_mb))],
        "growth": round(served.growth, 4),
        "passed": served.wrong == 0 and served.growth <= STREAMED.value - 1,
    }


def stream_rows(stage: str, rows: int, folder: Path) -> dict[str, Any]:
    """The peak memory of a stage with a tenth of the rows, and with all of them."""
    model = save_model(folder / "model")
    files = {n: write_rows(folder / f"{n}.jsonl", n) for n in (rows // 10, rows)}
    commands = [
        calibration(model, data, rows=n, method="best") if stage == "calibrate" else evaluation(model, data)
        for n, data in files.items()
    ]
    started = time.monotonic()
    few, many = peaks_mb(commands)
    return {
        "soak": f"{rows} rows through qdq {stage}",
        "minutes": round((time.monotonic() - started) / 60, 1),
        "peak_mb": [round(few), round(many)],
        "growth": round(many / few - 1, 4),
        "passed": many <= STREAMED.value * few,
    }


def soak(minutes: float, rows: int, folder: Path) -> Iterator[dict[str, Any]]:
    """What came of each part, as it ends."""
    for runtime in RUNTIMES if minutes else ():
        yield serve_sample(runtime, minutes, folder)
    for stage in ("calibrate", "evaluate") if rows else ():
        yield stream_rows(stage, rows, folder)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Load over minutes, and in rows.")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each runtime; 0 for none")
    parser.add_argument("--rows", type=int, default=1_000_000, help="through calibrate and evaluate; 0 for none")
    asked = parser.parse_args()
    passed = True
    with TemporaryDirectory() as folder:
        for found in soak(asked.minutes, asked.rows, Path(folder)):
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()
            passed &= found["passed"]
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
