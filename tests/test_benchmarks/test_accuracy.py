"""Accuracy of a runner: rows that it cannot take are refused in words."""

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.accuracy import measure_accuracy, share_agreeing
from export.runners.base import AlwaysOpen, Arrays
from export.runners.torch_runner import TorchRunner
from qat.errors import DataError
from qat.tasks import find_task
from tests.calibrated import TASK, encode_tiny
from tests.tiny import tiny_bert
from tests.tiny_heads import encode_head, head_model

CHOICE = find_task("multiple-choice")


class EvenRunner(AlwaysOpen):
    """Answers every row alike, and notes what it was fed."""

    name, precision = "even", "fp32"

    def __init__(self, *names: str, axes: tuple[int | str, ...] = ("batch", "sequence")) -> None:
        self.inputs: Mapping[str, tuple[int | str, ...]] = dict.fromkeys(names, axes)
        self.fed: list[Mapping[str, NDArray[np.generic]]] = []

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        self.fed.append(feed)
        return {"logits": np.tile(np.array([0.0, 2.0, 1.0], np.float32), (len(feed["input_ids"]), 1))}


def test_rows_without_segments_are_all_segment_zero() -> None:
    runner = EvenRunner("input_ids", "attention_mask", "token_type_ids")
    measure_accuracy(runner, encode_tiny(3), TASK, pad_token_id=0)
    assert not runner.fed[0]["token_type_ids"].any()
    assert runner.fed[0]["token_type_ids"].shape == runner.fed[0]["input_ids"].shape


def test_segments_are_not_dropped_in_silence() -> None:
    rows = encode_head("multiple-choice", head_model("multiple-choice", "bert"), 2)
    with pytest.raises(DataError) as caught:
        measure_accuracy(EvenRunner("input_ids", axes=("batch", 3, "sequence")), rows, CHOICE, pad_token_id=0)
    assert str(caught.value) == (
        "multiple-choice rows has pairs of texts, but this artefact takes no token_type_ids: it was calibrated on "
        "single texts; calibrate the float checkpoint on pairs"
    )


@pytest.mark.parametrize(("axes", "takes"), [((1, 4, "sequence"), "1x4xsequence"), (("batch", "n"), "batchxn")])
def test_another_number_of_choices_is_refused(axes: tuple[int | str, ...], takes: str) -> None:
    rows = encode_head("multiple-choice", head_model("multiple-choice", "bert"), 2)
    runner = EvenRunner("input_ids", "token_type_ids", axes=axes)
    with pytest.raises(DataError) as caught:
        measure_accuracy(runner, rows, CHOICE, pad_token_id=0)
    assert str(caught.value) == (
        f"multiple-choice rows has rows of batchx3xsequence, but the input input_ids of this artefact takes {takes}: "
        "give rows with as many choices, or export the checkpoint calibrated on these"
    )


def test_a_float_checkpoint_takes_any_number_of_choices() -> None:
    model = head_model("multiple-choice", "bert")
    rows = encode_head("multiple-choice", model, 4)
    runner = TorchRunner(model, inputs=("input_ids", "attention_mask", "token_type_ids"), axes=CHOICE.axes)
    assert measure_accuracy(runner, rows, CHOICE, pad_token_id=0).n == 4


def test_the_share_of_answers_that_agree() -> None:
    rows = encode_tiny(6)
    runner = TorchRunner(tiny_bert())
    found, even = (measure_accuracy(each, rows, TASK, pad_token_id=0) for each in (runner, EvenRunner("input_ids")))
    same = (found.outputs["logits"].argmax(axis=1) == 1).mean()
    assert share_agreeing(TASK, rows, found, even) == same
    assert share_agreeing(TASK, rows, found, found) == 1.0
