"""compare: two runners fed the same batches, and a control that is found out."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from export.compare import Agreement, compare
from export.exported import Lowering, lower_graph
from export.runners.base import Arrays, Runner
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from export.runners.torch_runner import TorchRunner
from export.targets import find_target
from qat.errors import DataError
from qat.quantizer import disable_quantizers
from tests.test_export.tiny_models import Traced, make_batch
from tests.tolerances import FLIPPED_ROWS

BATCHES = [make_batch(4, 9, seed=1), make_batch(2, 30, seed=2)]


class FixedRunner:
    """Answers with what it was given, whatever it is fed."""

    name, precision = "fixed", "fp32"

    def __init__(self, **outputs: Any) -> None:
        self.inputs: Mapping[str, tuple[int | str, ...]] = {"input_ids": ("batch", "sequence")}
        self._outputs = {name: np.array(values) for name, values in outputs.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        return self._outputs


def agree(first: Runner, second: Runner) -> Agreement:
    with first, second:
        return compare(first, second, BATCHES)


@pytest.fixture
def graph_runner(traced: Traced, tmp_path_factory: pytest.TempPathFactory) -> OnnxRuntimeRunner:
    path = tmp_path_factory.mktemp("compared") / "model.onnx"
    ir.save(lower_graph(traced.graph, Lowering(find_target("onnxruntime"), "fp32")), path)
    return OnnxRuntimeRunner(path, optimized=False)


def test_a_model_agrees_with_its_export(traced: Traced, graph_runner: OnnxRuntimeRunner) -> None:
    found = agree(TorchRunner(traced.model), graph_runner)
    assert found.rows == 6
    assert found.same_argmax >= 1 - FLIPPED_ROWS.value / 6


def test_the_float_model_does_not_agree_with_the_quantized_graph(
    traced: Traced, graph_runner: OnnxRuntimeRunner
) -> None:
    same = agree(TorchRunner(traced.model), graph_runner)
    with disable_quantizers(traced.model):
        control = agree(TorchRunner(traced.model), graph_runner)
    assert control.largest_difference > 0.01
    assert control.largest_difference > 2 * same.largest_difference


def test_rows_and_differences_are_counted_by_hand() -> None:
    first = FixedRunner(logits=[[1.0, 2.0], [4.0, 3.0]], extra=[[0.0], [0.0]])
    second = FixedRunner(logits=[[1.5, 2.0], [2.0, 3.0]], extra=[[-7.0], [0.0]])
    seen: list[int] = []
    found = compare(first, second, BATCHES, progress=seen.append)
    assert found == Agreement(rows=4, same_argmax=0.5, largest_difference=7.0)
    assert seen == [2, 4]


def test_a_row_of_many_tokens_agrees_only_as_a_whole() -> None:
    first = FixedRunner(logits=[[[1.0, 2.0], [2.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]])
    second = FixedRunner(logits=[[[1.0, 2.0], [2.0, 1.0]], [[1.0, 2.0], [0.0, 1.0]]])
    assert compare(first, second, BATCHES[:1]).same_argmax == 0.5


def test_integers_do_not_wrap_around() -> None:
    low, high = np.array([[-128, 0]], np.int8), np.array([[127, 0]], np.int8)
    assert compare(FixedRunner(logits=low), FixedRunner(logits=high), BATCHES[:1]).largest_difference == 255


def test_no_batches_are_an_error() -> None:
    with pytest.raises(DataError, match=r"^no batches were given to compare on: at least one is needed$"):
        compare(FixedRunner(logits=[[1.0]]), FixedRunner(logits=[[1.0]]), [])


@pytest.mark.parametrize("other", [{"logits": [[1.0, 2.0]]}, {"scores": [[1.0]]}])
def test_answers_of_other_names_or_shapes_are_an_error(other: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        compare(FixedRunner(logits=[[1.0]]), FixedRunner(**other), BATCHES)
    shapes = {name: np.array(values).shape for name, values in other.items()}
    assert str(caught.value) == (
        f"the runners answer differently: fixed {{'logits': (1, 1)}}, fixed {shapes}; give twins of one model"
    )
