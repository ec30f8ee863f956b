"""Every head of every family, the whole way: encoded, wrapped, calibrated, trained, exported for every target, served.

One family stands for all in ``make test``; the others are long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.accuracy import measure_accuracy
from calibration.calibrate import calibrate
from calibration.settings import CalibrationSettings
from export.deploy.check import check_repository
from export.deploy.repository import deploy
from export.deploy.settings import DeploySettings
from export.engine import BuildSettings, build
from export.exported import Lowering, trace_model, trace_next, write_exported
from export.predict import Asking, predict
from export.runners.load import load_runner
from export.runners.torch_runner import TorchRunner
from export.targets import find_target, list_targets
from export.targets.base import Precision
from qat.batches import iterate_batches
from qat.cells import Cell, list_cells
from qat.distill import answer_distance
from qat.finetune import finetune
from qat.finetune_settings import FinetuneSettings
from qat.huggingface import quantization_config, wrap
from qat.tasks import find_task
from qat.tasks.base import Encoded
from qat.tasks.record import TaskRecord
from tests.this_cpu import EXACT_RUNTIMES
from tests.tiny import save_tiny, tiny_tokenizer
from tests.tiny_heads import encode_head, find_head, head_model
from tests.told import count_other, make_rows
from tests.tolerances import FLIPPED_ROWS, HEAD_METRIC, PERPLEXITY

STEPS = FinetuneSettings(max_steps=20, batch_size=8, learning_rate=1e-3, held_out=0)
LONG = [  # one family is enough for the heads, and two kinds of text classification have the graph of the third
    cell for cell in list_cells() if cell.family.model_type != "bert" or cell.kind not in (None, "regression")
]
CELLS = [
    pytest.param(cell, id=f"{find_head(cell)}-{cell.family.model_type}", marks=[pytest.mark.long] * (cell in LONG))
    for cell in list_cells()
]
LAYERS = {"albert": 2}
"""Layers of a family's model, two runs where they share weights; for a head one is enough, and traced twice as fast."""

SCORED = EXACT_RUNTIMES
BUILT = "rtx"


@dataclass(frozen=True)
class Made:
    """A fine-tuned quantized model with a head, its graphs before any lowering, and rows to score on."""

    model: PreTrainedModel
    graph: ir.Model
    step: ir.Model | None
    rows: Encoded
    record: TaskRecord
    head: str

    def write(self, folder: Path, target: str, precision: Precision) -> Path:
        """The folder exported for a target."""
        lowering = Lowering(find_target(target), precision)
        tokenizer = tiny_tokenizer()
        return write_exported(
            self.graph, self.model, folder / target, lowering=lowering, tokenizer=tokenizer, step=self.step
        ).folder


def make(cell: Cell) -> Made:
    head, layers = find_head(cell), LAYERS.get(cell.family.model_type, 1)
    model = head_model(head, cell.family.model_type, layers=layers)
    assert type(model) is cell.model_class
    rows = encode_head(head, model, 24)
    # its own original is too near for 20 steps to come nearer
    teacher = head_model(head, cell.family.model_type, seed=1, layers=layers) if cell.task.refers else None
    record = TaskRecord.of(cell.task, {}, None, rows, model.config)
    wrap(model, target="rtx")
    quantization_config(model).task = record.to_dict()
    batches = [batch.to_tensors() for batch in iterate_batches(rows, batch_size=8, pad_token_id=0, order="length")]
    calibrate(model, batches, settings=CalibrationSettings(search_rows=4))
    before = mean_loss(model, batches, teacher)
    done = finetune(model, rows, tokenizer=tiny_tokenizer(), teacher=teacher, settings=STEPS)
    assert done.steps == STEPS.max_steps
    assert mean_loss(model, batches, teacher) < before
    return Made(model, trace_model(model), trace_next(model), rows, record, head)


def mean_loss(model: PreTrainedModel, batches: Sequence[dict[str, Tensor]], teacher: PreTrainedModel | None) -> float:
    """Of the fake-quantized model over all its training rows: its own, or its distance to the float one."""

    def loss(batch: dict[str, Tensor]) -> float:
        answer = model(**batch)
        if teacher is None:
            return float(answer.loss)
        return float(answer_distance(answer, teacher(**batch), batch, 1.0, independent=False))

    with torch.no_grad():
        return sum(map(loss, batches)) / len(batches)


def check_scores(made: Made, folder: Path) -> None:
    """The graph answers as torch does, and so scores alike."""
    task, record = find_task(made.record.name), made.record
    runners = (
        TorchRunner(made.model, inputs=record.inputs, outputs=record.outputs, axes=record.axes),
        load_runner(folder, optimized=False),
    )
    ours, theirs = (measure_accuracy(runner, made.rows, task, pad_token_id=0, batch_size=5) for runner in runners)
    assert (~task.agree(ours.outputs, theirs.outputs, made.rows)).sum() <= FLIPPED_ROWS.value
    assert dict(ours.metrics) == pytest.approx(dict(theirs.metrics), abs=HEAD_METRIC.value, rel=PERPLEXITY.value)


def check_predictions(made: Made, folders: Sequence[Path], folder: Path) -> None:
    """Asked without labels, every runner says what torch says."""
    rows = make_rows(made.head)
    asking = Asking(batch_size=5, top=2, optimized=False)
    torch_folder = save_tiny(made.model, tiny_tokenizer(), folder / "torch")
    told = predict(torch_folder, rows, asking=asking)
    assert len(told) == len(rows)
    for each in folders:
        assert count_other(predict(each, rows, asking=asking), told) <= FLIPPED_ROWS.value, each.name


def check_engine(folder: Path) -> None:
    settings = BuildSettings(shapes="1x1,4x16,8x64", hardware=("sm_89",))
    engine = build(folder, folder / "model.engine", settings=settings)
    assert engine.audit.float_gemms == 0
    assert engine.audit.int8_gemms > 0


def check_served(folder: Path, models: Path) -> None:
    """A server's repository of it answers requests of every asked shape, where a CPU computes its precision."""
    deploy(folder, models, settings=DeploySettings(shapes="1x1,3x7,5x32"))
    (checked,) = check_repository(models)
    assert [each.request for each in checked.answered] == ["1x1", "3x7", "5x32"]


@pytest.mark.parametrize("cell", CELLS)
def test_the_whole_way_to_every_target(cell: Cell, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    made = make(cell)
    folders = {
        name: made.write(tmp_path, name, "fp32" if name in SCORED else find_target(name).default_precision)
        for name in list_targets()
    }
    for name in SCORED:
        check_scores(made, folders[name])
    check_predictions(made, [folders[name] for name in SCORED], tmp_path)
    check_engine(folders[BUILT])
    served = folders if made.step is None else {}  # a server takes one graph
    for name, folder in served.items():
        check_served(folder, tmp_path / "models" / name)
