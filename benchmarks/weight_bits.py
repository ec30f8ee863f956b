"""How alike CPU runtimes answer with weights of 8 and of 7 bits: ``python -m benchmarks.weight_bits CHECKPOINT``.

A CPU with AVX2 and neither VNNI nor AVX-512 adds two products of 8 bits in 16, which can saturate; with weights of 7
bits they fit. Every row stands beside the same model in torch, which computes fake quantization in float.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import numpy as np
import onnx_ir as ir
import typer
from numpy.typing import NDArray
from transformers import PreTrainedModel

from benchmarks.accuracy import measure_accuracy
from benchmarks.environment import describe_environment
from calibration.quantize import quantize_rows
from export.exported import Lowering, lower_graph, trace_model
from export.runners.base import Runner
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from export.runners.openvino_runner import OpenVinoRunner
from export.targets import find_target
from qat.artefacts import require_writable, write_json
from qat.checkpoint import load_checkpoint
from qat.commands import encode_rows
from qat.console import print_json, print_table, show_stages
from qat.recipe import Recipe
from qat.scoring import Accuracy, infer_with, score_rows
from qat.tasks import find_task
from qat.tasks.base import Encoded
from qat.tasks.record import TaskRecord

RECIPES = ("tensorrt", "linear")
BITS: tuple[Literal[8, 7], ...] = (8, 7)
RUNTIMES: dict[str, Callable[[Path], Runner]] = {
    "onnxruntime": lambda path: OnnxRuntimeRunner(path, threads=1),
    "openvino": lambda path: OpenVinoRunner(path, rest="f32", threads=1),
}
_TASK = "text-classification"
_MOVED = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class BitsRow:
    """What one runtime makes of one model.

    Attributes:
        recipe, bits, runtime: which.
        accuracy: of the runtime, in percent; ``torch_accuracy`` of fake quantization.
        agreement: rows with torch's answer, in percent.
        moved: rows whose logits lie more than 0.001 from torch's, in percent.
        distance: the largest difference of a row's logits, on average.
    """

    recipe: str
    bits: int
    runtime: str
    accuracy: float
    torch_accuracy: float
    agreement: float
    moved: float
    distance: float


def compare_runtimes(model: PreTrainedModel, rows: Encoded, *, pad: int) -> Iterator[tuple[str, Accuracy, Accuracy]]:
    """Each runtime's name and answers, beside torch's, of a quantized model as that runtime's target lowers it."""
    task, graph = find_task(_TASK), trace_model(model)
    beside = score_rows(infer_with(model), rows, task, pad_token_id=pad)
    with TemporaryDirectory() as folder:
        for name, start in RUNTIMES.items():
            path = Path(folder) / f"{name}.onnx"
            ir.save(lower_graph(graph, Lowering(find_target(name), "fp32")), path)
            yield name, measure_accuracy(start(path), rows, task, pad_token_id=pad), beside


def describe_distance(found: NDArray[np.float32], beside: NDArray[np.float32]) -> Mapping[str, float]:
    """Agreement, moved rows in percent, and mean distance of two sets of logits, ``(rows, classes)``.

    >>> describe_distance(np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 1.5]]))
    {'agreement': 50.0, 'moved': 50.0, 'distance': 0.75}
    """
    apart = np.abs(found - beside).max(axis=-1)
    return {
        "agreement": 100 * float((found.argmax(axis=-1) == beside.argmax(axis=-1)).mean()),
        "moved": 100 * float((apart > _MOVED).mean()),
        "distance": float(apart.mean()),
    }


def weight_bits_command(
    checkpoint: Annotated[Path, typer.Argument(help="Float checkpoint folder, fine-tuned on text classification.")],
    data: Annotated[Path, typer.Option(help="Rows to calibrate on.")],
    evaluation: Annotated[Path, typer.Option("--eval", help="Labelled rows to answer.")],
    out: Annotated[Path, typer.Option(help="JSON file of all rows.")],
    texts: Annotated[int, typer.Option(min=1, help="How many rows calibrate.")] = 512,
    limit: Annotated[int, typer.Option(min=1, help="How many rows are answered.")] = 2000,
) -> None:
    """Compare runtimes with fake quantization, with weights of 8 and of 7 bits; the last line is JSON.

    Example: python -m benchmarks.weight_bits my-bert --data train.jsonl --eval dev.jsonl --out bits.json
    """
    require_writable(out)
    task = find_task(_TASK)
    loaded, record = load_checkpoint(checkpoint, task), TaskRecord(name=task.name)
    calibration = encode_rows(loaded, task, record, data, texts, require_labels=False)
    scored = encode_rows(loaded, task, record, evaluation, limit)
    rows: list[BitsRow] = []
    combinations = [(recipe, bits) for recipe in RECIPES for bits in BITS]
    with show_stages() as advance:
        for done, (recipe, bits) in enumerate(combinations):
            advance(f"{recipe}, {bits} bits", done, len(combinations))
            chosen = Recipe.load(recipe).model_copy(update={"weights": "per_channel", "weight_bits": bits})
            quantized = load_checkpoint(checkpoint, task)
            quantize_rows(quantized, calibration, chosen, target="onnxruntime")
            rows += [
                BitsRow(
                    recipe=recipe, bits=bits, runtime=name,
                    accuracy=100 * found.value, torch_accuracy=100 * beside.value,
                    **describe_distance(found.outputs["logits"], beside.outputs["logits"]),
                )
                for name, found, beside in compare_runtimes(quantized.model, scored, pad=quantized.pad_token_id)
            ]  # fmt: skip
    write_json(out, {
        "checkpoint": checkpoint.name, "calibration_rows": len(calibration), "scored_rows": len(scored),
        "rows": [asdict(row) for row in rows], "environment": describe_environment(),
    })  # fmt: skip
    head = ("recipe", "bits", "runtime", "accuracy", "torch", "same %", "moved %", "distance")
    print_table(f"{checkpoint.name}, beside torch", head, [tuple(asdict(row).values()) for row in rows])
    print_json({"out": str(out), "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    typer.run(weight_bits_command)
