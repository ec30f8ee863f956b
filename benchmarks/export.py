"""What exporting a BERT-base costs in time and memory: ``python -m benchmarks.export``.

The checkpoint is random: time and memory depend on its shape alone, and none of that size has to be downloaded.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from benchmarks.environment import describe_environment
from benchmarks.memory import peak_megabytes
from benchmarks.placeholder_ranges import fill_ranges
from export.exported import ExportedModel, export
from export.settings import ExportSettings
from qat.console import print_json, print_table
from qat.huggingface import wrap


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportCost:
    """The figures of one export.

    Attributes:
        weights_mb: of the FP32 model.
        seconds: wall time, from the loaded model to the folder.
        processor_seconds: of all threads meanwhile: what counts on a busy machine.
        resident_mb: of the process before.
        peak_ratio: the largest resident memory above that by ``weights_mb``; None where the system does not tell.
        file_ratio: the graph's size by ``weights_mb``.
        file_ratio_int8_embeddings: the same with INT8 embedding tables.
    """

    weights_mb: float
    seconds: float
    processor_seconds: float
    resident_mb: float | None
    peak_ratio: float | None
    file_ratio: float
    file_ratio_int8_embeddings: float


def make_bert(layers: int, hidden: int) -> PreTrainedModel:
    """A random BERT for classification with a range in every quantizer, in evaluation mode."""
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=hidden // 64, intermediate_size=4 * hidden
    )
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    model.train(False)
    wrap(model, target="rtx")
    fill_ranges(model)
    return model


def measure_export(model: PreTrainedModel) -> ExportCost:
    """The cost of exporting ``model`` for TensorRT for RTX in FP16."""
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4 / 1e6
    resident = peak_megabytes(lambda: None)
    with TemporaryDirectory() as folder:
        made: list[ExportedModel] = []
        started, worked = time.perf_counter(), time.process_time()
        peak = peak_megabytes(lambda: made.append(export(model, Path(folder) / "plain")))
        seconds, processor = time.perf_counter() - started, time.process_time() - worked
        small = export(model, Path(folder) / "small", settings=ExportSettings(embeddings="int8"))
        sizes = [each.onnx_path.stat().st_size / 1e6 / weights for each in (made[0], small)]
    return ExportCost(
        weights_mb=weights,
        seconds=seconds,
        processor_seconds=processor,
        resident_mb=resident,
        peak_ratio=None if peak is None or resident is None else (peak - resident) / weights,
        file_ratio=sizes[0],
        file_ratio_int8_embeddings=sizes[1],
    )


def main(
    layers: Annotated[int, typer.Option("--layers", min=1, help="Encoder layers.")] = 12,
    hidden: Annotated[int, typer.Option("--hidden", min=64, help="Hidden size, a multiple of 64.")] = 768,
) -> None:
    """Export a random BERT and print what it cost."""
    cost = measure_export(make_bert(layers, hidden))
    print_table(f"BERT, {layers} layers of {hidden}", ("figure", "value"), list(asdict(cost).items()))
    print_json({**asdict(cost), "environment": describe_environment()})


if __name__ == "__main__":
    typer.run(main)
