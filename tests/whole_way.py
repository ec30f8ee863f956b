"""Every command on the shipped sample, in one process, from an installed package and outside the source tree.

    cd an-empty-folder
    /path/to/environment/bin/python /path/to/tests/whole_way.py

Says which versions it found and how each command ended, and exits with 1 where one did not end well. This is how a
wheel is tried on another Python, and with other versions of what it depends on.
"""

import io
import sys
import time
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path

from benchmarks.command_line import app
from benchmarks.sample import CHECKPOINT, TRAIN, VALIDATION
from qat.errors import QDQError

PACKAGES = ("qdq", "torch", "transformers", "numpy", "onnx", "onnxruntime", "openvino", "tensorrt-rtx", "typer")

FEW = ("--limit", "128")
TEXT = ("--text", "the act of running")
COMMANDS = (
    (
        *("run", CHECKPOINT, "--task", "text-classification", "--data", TRAIN, "--eval", VALIDATION),
        *("--out", "run", "--set", "finetune.max_steps=2", *FEW),
    ),
    ("evaluate", "run/finetuned", "--data", VALIDATION, *FEW),
    ("evaluate", "run/onnx", "--data", VALIDATION, *FEW),
    ("predict", "run/onnx", *TEXT),
    ("audit", "run/onnx"),
    ("audit", "run/model.engine"),
    ("lint", "run/onnx/model.onnx", "--target", "rtx"),
    ("export", "run/finetuned", "--out", "openvino", "--target", "openvino"),
    ("predict", "openvino", *TEXT, "--goal", "throughput"),
    ("audit", "openvino"),
    ("deploy", "run/onnx", "--triton", "triton"),
    ("ranges", "run/calibrated"),
    ("convert", CHECKPOINT, "--out", "flax", "--to", "flax"),
    ("convert", "flax", "--out", "back"),
    ("families",),
)


def walk() -> int:
    """How many of the commands did not end well."""
    failed = 0
    for command in COMMANDS:
        arguments, started = [str(each) for each in command], time.monotonic()
        try:
            with redirect_stdout(io.StringIO()):
                ended = app(args=arguments, standalone_mode=False) or "ended well"
        except QDQError as error:
            ended = str(error)
        failed += ended != "ended well"
        sys.stdout.write(f"{arguments[0]} {arguments[1:2]}: {ended} ({time.monotonic() - started:.0f} s)\n")
        sys.stdout.flush()
    return failed


if __name__ == "__main__":
    here = Path(__file__).resolve().parent.parent
    if Path(sys.modules["benchmarks"].__file__ or "").is_relative_to(here):
        sys.exit(f"benchmarks was imported from {here}: run this outside the source tree, with an installed wheel")
    sys.stdout.write(f"Python {sys.version.split()[0]}, {', '.join(f'{name} {version(name)}' for name in PACKAGES)}\n")
    sys.exit(1 if walk() else 0)
