"""Every head on every family, the whole way: encoded, wrapped, calibrated, trained, exported for every target."""

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import pytest
from transformers import PreTrainedModel

from benchmarks.accuracy import measure_accuracy
from calibration.calibrate import calibrate
from calibration.settings import CalibrationSettings
from export.engine import BuildSettings, build
from export.exported import Lowering, trace_model, write_exported
from export.runners.load import load_runner
from export.runners.torch_runner import TorchRunner
from export.targets import find_target
from export.targets.base import Precision
from qat.batches import iterate_batches
from qat.finetune import finetune
from qat.finetune_settings import FinetuneSettings
from qat.huggingface import quantization_config, wrap
from qat.tasks import find_task
from qat.tasks.base import Encoded
from qat.tasks.record import TaskRecord
from tests.tiny import TINY_MODELS, tiny_tokenizer
from tests.tiny_heads import HEADS, encode_head, head_model
from tests.tolerances import FLIPPED_ROWS, HEAD_METRIC

STEPS = FinetuneSettings(max_steps=4, batch_size=8, learning_rate=1e-3, patience=5)  # never stopped early
QUICK = tuple(head for head in HEADS if head != "multi-label")  # whose graph is that of any classification
REST = [(head, family) for head in HEADS for family in TINY_MODELS]


@dataclass(frozen=True)
class Made:
    """A fine-tuned quantized model with a head, its graph before any lowering, and rows to score on."""

    head: str
    model: PreTrainedModel
    graph: ir.Model
    rows: Encoded
    record: TaskRecord

    def write(self, folder: Path, target: str, precision: Precision) -> Path:
        """The folder exported for a target."""
        lowering = Lowering(find_target(target), precision)
        return write_exported(
            self.graph, self.model, folder / target, lowering=lowering, tokenizer=tiny_tokenizer()
        ).folder


def make(head: str, family: str, layers: int) -> Made:
    task, model = find_task(HEADS[head][0]), head_model(head, family, layers=layers)
    rows = encode_head(head, model, 24)
    record = TaskRecord.of(task, {}, None, rows)
    wrap(model, target="rtx")
    quantization_config(model).task = record.to_dict()
    batches = [batch.to_tensors() for batch in iterate_batches(rows, batch_size=8, pad_token_id=0, order="length")]
    calibrate(model, batches, settings=CalibrationSettings(search_rows=4))
    assert finetune(model, rows, tokenizer=tiny_tokenizer(), settings=STEPS).steps == STEPS.max_steps
    return Made(head, model, trace_model(model), rows, record)


def check_scores(made: Made, folder: Path) -> None:
    """The graph answers as torch does, and so scores alike."""
    task, record = find_task(made.record.name), made.record
    runners = (
        TorchRunner(made.model, inputs=record.inputs, outputs=record.outputs, axes=record.axes),
        load_runner(folder, optimized=False),
    )
    ours, theirs = (measure_accuracy(runner, made.rows, task, pad_token_id=0, batch_size=5) for runner in runners)
    assert (~task.agree(ours.outputs, theirs.outputs, made.rows)).sum() <= FLIPPED_ROWS.value
    assert dict(ours.metrics) == pytest.approx(dict(theirs.metrics), abs=HEAD_METRIC.value)


def check_engine(folder: Path) -> None:
    settings = BuildSettings(shapes="1x1,4x16,8x64", hardware=("sm_89",))
    engine = build(folder, folder / "model.engine", settings=settings)
    assert engine.audit.float_gemms == 0
    assert engine.audit.int8_gemms > 0


@pytest.mark.parametrize("head", QUICK)
def test_the_whole_way(head: str, tmp_path: Path) -> None:
    made = make(head, "bert", layers=1)
    check_scores(made, made.write(tmp_path, "onnxruntime", "fp32"))


@pytest.mark.long
@pytest.mark.parametrize(("head", "family"), REST)
def test_the_whole_way_of_every_family_to_every_target(head: str, family: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    made = make(head, family, layers=2)
    for target in ("onnxruntime", "openvino"):
        check_scores(made, made.write(tmp_path, target, "fp32"))
    check_engine(made.write(tmp_path, "rtx", "fp16"))
