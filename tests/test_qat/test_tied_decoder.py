"""A masked-language model's decoder is its embedding table: through every stage, in memory and on disk."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel

from calibration.calibrate import calibrate
from calibration.settings import CalibrationSettings
from qat.batches import iterate_batches
from qat.finetune import finetune
from qat.finetune_settings import FinetuneSettings
from qat.huggingface import unwrap, wrap
from qat.quantizer import named_quantizers
from tests.tiny import TINY_MODELS, tiny_tokenizer
from tests.tiny_heads import encode_head, head_model

STEPS = FinetuneSettings(max_steps=3, batch_size=8, learning_rate=1e-3, held_out=0)


def table_of(model: PreTrainedModel) -> Tensor:
    return model.get_input_embeddings().get_parameter("weight")


def is_tied(model: PreTrainedModel) -> bool:
    decoder = model.get_output_embeddings()
    return decoder is not None and decoder.get_parameter("weight") is table_of(model)


@pytest.mark.parametrize("family", TINY_MODELS)
def test_it_stays_so_from_wrapping_to_the_float_model_again(family: str, tmp_path: Path) -> None:
    model, teacher = head_model("fill-mask", family, layers=1), head_model("fill-mask", family, layers=1)
    rows = encode_head("fill-mask", model, 16)
    batches = [batch.to_tensors() for batch in iterate_batches(rows, batch_size=8, pad_token_id=0)]
    assert is_tied(model)
    wrap(model)
    calibrate(model, batches, settings=CalibrationSettings(method="max"))
    assert is_tied(model)
    assert not [name for name, _ in named_quantizers(model) if "decoder" in name or "lm_head" in name]
    before = table_of(model).detach().clone()
    finetune(model, rows, tokenizer=tiny_tokenizer(), teacher=teacher, settings=STEPS)
    assert is_tied(model)
    moved = (table_of(model).detach() != before).any(dim=1)
    assert bool(moved.all()), "every word has a gradient, also those that no row holds: the decoder's"
    model.save_pretrained(tmp_path)
    words = [
        name for name, x in load_file(tmp_path / "model.safetensors").items() if x.dim() == 2 and len(x) == len(before)
    ]
    assert len(words) == 1
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert is_tied(again)
    with torch.no_grad():
        assert torch.equal(again(**batches[0]).logits, model(**batches[0]).logits)
    assert is_tied(unwrap(again))
