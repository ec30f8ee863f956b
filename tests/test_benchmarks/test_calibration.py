"""The cost of collecting: every figure is there and in its unit, the models are left as they were."""

from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.calibration import measure_cost, read_batches
from benchmarks.memory import peak_megabytes
from benchmarks.sample import CHECKPOINT, TRAIN
from qat.huggingface import wrap
from qat.quantizer import named_quantizers
from tests.calibrated import tiny_batches
from tests.tiny import tiny_albert, tiny_bert


def test_every_figure_is_of_the_batches_given() -> None:
    bare, wrapped = tiny_albert(), tiny_albert()
    wrap(wrapped)
    batches = [{name: x for name, x in each.items() if name != "labels"} for each in tiny_batches(64)]
    cost = measure_cost(bare, wrapped, batches)
    assert (cost.texts, cost.ranges) == (64, 24)
    assert cost.tokens == sum(int(each["attention_mask"].sum()) for each in batches)
    assert cost.ratio_all == cost.all_s / cost.bare_s
    assert min(value for value in asdict(cost).values() if value is not None) >= 0.0
    assert all(quantizer.enabled and not quantizer._forward_pre_hooks for _, quantizer in named_quantizers(wrapped))


def test_bare_inference_collects_nothing() -> None:
    bare, wrapped = tiny_bert(), tiny_bert()
    wrap(wrapped)
    measure_cost(bare, wrapped, [{"input_ids": torch.full((2, 5), 7), "attention_mask": torch.ones(2, 5)}] * 4)
    assert not any(True for _ in named_quantizers(bare))


def test_batches_hold_every_row_once() -> None:
    batches = read_batches(CHECKPOINT, TRAIN, 40, 16)
    assert sorted(len(batch["input_ids"]) for batch in batches) == [8, 16, 16]
    assert all(batch.keys() == {"input_ids", "attention_mask"} for batch in batches)


def test_the_peak_is_what_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("VmPeak:\t  99 kB\nVmHWM:\t  2500 kB\n")
    ran: list[int] = []
    assert peak_megabytes(lambda: ran.append(1), process=tmp_path) == 2.5
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert peak_megabytes(lambda: ran.append(2), process=tmp_path / "nothing") is None
    assert ran == [1, 2]
