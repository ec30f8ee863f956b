"""Fine-tuning under autocast by its own setting: BF16 anywhere, FP16 where a GPU is."""

import pytest
import torch

from qat.errors import RecipeError
from qat.quantizer import calibrated_quantizers
from tests.calibrated import make_calibrated
from tests.test_qat.test_finetune import SHORT, loss_of, refuse, train
from tests.tiny import tiny_bert


def test_bf16_trains_and_leaves_weights_and_ranges_in_fp32() -> None:
    model, plain = make_calibrated(tiny_bert()), make_calibrated(tiny_bert())
    before = loss_of(model)
    done = train(model, SHORT.model_copy(update={"precision": "bf16"}))
    whole = train(plain)
    assert done.steps == SHORT.max_steps
    assert done.last_loss != whole.last_loss, "autocast was on"
    assert loss_of(model) < before
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert {quantizer.amax.dtype for _, quantizer in calibrated_quantizers(model)} == {torch.float32}


def test_fp16_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    model = make_calibrated(tiny_bert())
    told = refuse(RecipeError, lambda: train(model, SHORT.model_copy(update={"precision": "fp16"})))
    assert told == "finetune.precision=fp16 needs a GPU, and there is none: on a CPU give bf16 or fp32"
