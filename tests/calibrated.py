"""Calibrated tiny models, and the rows and batches they are calibrated and trained on."""

from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from calibration.calibrate import calibrate
from calibration.settings import CalibrationSettings
from qat.batches import iterate_batches
from qat.checkpoint import Checkpoint, save_checkpoint
from qat.data import Rows
from qat.huggingface import wrap
from qat.recipe import Recipe
from qat.spec import Bits
from qat.tasks import find_task
from qat.tasks.base import Encoded
from tests.tiny import tiny_bert, tiny_rows, tiny_tokenizer

TASK = find_task("text-classification")


def encode_tiny(n: int, seed: int = 0) -> Encoded:
    """``n`` tiny rows with labels, as the tiny models take them."""
    rows = Rows(tiny_rows(n, seed), source="tiny rows")
    return TASK.encode(rows, tokenizer=tiny_tokenizer(), config=tiny_bert().config)


def tiny_batches(n: int = 16, seed: int = 0, *, batch_size: int = 8) -> list[dict[str, Tensor]]:
    """The rows as padded batches: ``input_ids``, ``attention_mask``, ``labels``."""
    batches = iterate_batches(encode_tiny(n, seed), batch_size=batch_size, pad_token_id=0)
    return [batch.to_tensors() for batch in batches]


def make_calibrated(model: PreTrainedModel, *, target: str = "rtx", bits: Bits = 8) -> PreTrainedModel:
    """``model``, wrapped for ``target`` with weights of so many bits and calibrated on 16 rows, by maximum."""
    wrap(model, Recipe.load("tensorrt").for_target(target).model_copy(update={"weight_bits": bits}), target=target)
    calibrate(model, tiny_batches(), settings=CalibrationSettings(method="max"))
    return model


def save_calibrated(model: PreTrainedModel, folder: Path) -> Path:
    """``folder``, holding the model and the tiny tokenizer as the commands write them."""
    checkpoint = Checkpoint(folder=folder, model=model, tokenizer=tiny_tokenizer())
    return save_checkpoint(checkpoint, folder, stage="calibrate", inputs={}, facts={})
