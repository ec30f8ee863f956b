"""A row's answer does not depend on the rows it shares a batch with: to the bit at one width, whatever runs it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.exported import Lowering, write_exported
from export.runners.base import Runner
from export.runners.load import load_runner
from export.runners.torch_runner import TorchRunner
from export.targets import find_target
from tests.test_export.conftest import Trace
from tests.test_export.test_runners import infer
from tests.test_export.tiny_models import Batch, Case, Traced, count_apart, make_batch
from tests.tolerances import FLIPPED_ROWS

CASES = tuple(Case(family, "tensorrt", "per_channel", shallow=True) for family in ("bert", "convbert", "squeezebert"))
BLIND_TO_WIDTH = (CASES[0], CASES[2], Case("albert", "linear", "per_channel", shallow=True))
"""ConvBERT's convolutions read the padding beside a row."""


def open_graph(target: str) -> Callable[[Traced, Path], Runner]:
    def load(traced: Traced, folder: Path) -> Runner:
        lowering = Lowering(find_target(target), "fp32")
        made = write_exported(traced.graph, traced.model, folder, lowering=lowering, tokenizer=None)
        return load_runner(made.folder, threads=1)

    return load


RUNTIMES: Mapping[str, Callable[[Traced, Path], Runner]] = {
    "torch": lambda traced, folder: TorchRunner(traced.model),
    "onnxruntime": open_graph("onnxruntime"),
    "openvino": open_graph("openvino"),
}
"""Each as ``qdq predict`` runs it, on one thread."""


def pick(batch: Batch, rows: list[int]) -> Batch:
    return {name: array[rows] for name, array in batch.items()}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_other_companions_and_another_order_change_no_bit(
    case: Case, runtime: str, trace: Trace, tmp_path: Path
) -> None:
    runner = RUNTIMES[runtime](trace(case), tmp_path / "onnx")
    batch, others = make_batch(6, 12, seed=3), make_batch(6, 12, seed=4)
    answers = infer(runner, batch)
    mixed = {name: np.concatenate([others[name][:3], array[3:]]) for name, array in batch.items()}
    assert np.array_equal(infer(runner, mixed)[3:], answers[3:])
    assert not np.array_equal(infer(runner, mixed)[:3], answers[:3])
    order = [5, 3, 1, 0, 2, 4]
    assert np.array_equal(infer(runner, pick(batch, order)), answers[order])


def one_by_one(runner: Runner, batch: Batch) -> NDArray[np.float32]:
    """Every row alone, without its padding."""
    lengths = batch["attention_mask"].sum(axis=1)
    rows = [{name: array[i : i + 1, :length] for name, array in batch.items()} for i, length in enumerate(lengths)]
    return np.concatenate([infer(runner, row) for row in rows])


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
@pytest.mark.parametrize("case", BLIND_TO_WIDTH, ids=str)
def test_a_row_alone_is_answered_as_in_a_batch(case: Case, runtime: str, trace: Trace, tmp_path: Path) -> None:
    runner, batch = RUNTIMES[runtime](trace(case), tmp_path / "onnx"), make_batch(6, 12, seed=3)
    assert count_apart(one_by_one(runner, batch), infer(runner, batch)) <= FLIPPED_ROWS.value
