"""Tiny decoders: BERTs that say the next token, with or without another model's states to attend to, and a ConvBERT."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel, ConvBertConfig, ConvBertModel, PreTrainedModel

from calibration.calibrate import calibrate
from calibration.settings import CalibrationSettings
from qat.huggingface import quantization_config, wrap
from qat.tasks import find_task
from qat.tasks.record import TaskRecord
from tests.tiny import MAX_LENGTH, spread_weights, tiny_tokenizer

GENERATION = find_task("text-generation")
RECORD = TaskRecord(name=GENERATION.name)
Batch = dict[str, Tensor]


def tiny_decoder(seed: int = 0, *, cross: bool = False, layers: int = 2, hidden: int = 64) -> BertLMHeadModel:
    """A causal BERT with 2 heads in evaluation mode; the same seed gives the same weights."""
    config = BertConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=MAX_LENGTH,
        is_decoder=True,
        add_cross_attention=cross,
        pad_token_id=0,
    )
    model = BertLMHeadModel(config)
    spread_weights(model, seed)
    nn.Module.eval(model)
    return model


def tiny_convbert_decoder(seed: int = 0) -> ConvBertModel:
    """What upstream calls a ConvBERT decoder, with cross-attention, in evaluation mode."""
    config = ConvBertConfig(
        vocab_size=len(tiny_tokenizer()),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_groups=2,
        conv_kernel_size=5,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        is_decoder=True,
        add_cross_attention=True,
        pad_token_id=0,
    )
    model = ConvBertModel(config)
    spread_weights(model, seed)
    nn.Module.eval(model)
    return model


def decoder_batch(rows: int, tokens: int, *, seed: int = 0, states: int = 0, hidden: int = 64) -> Batch:
    """Random tokens, the first row whole and the others padded behind; with as many ``states`` to attend to."""
    generator = torch.Generator().manual_seed(seed)

    def mask(length: int) -> Tensor:
        lengths = torch.randint(1, length + 1, (rows,), generator=generator)
        lengths[0] = length
        return (torch.arange(length) < lengths[:, None]).long()

    own = mask(tokens)
    batch = {"input_ids": torch.randint(5, 195, own.shape, generator=generator) * own, "attention_mask": own}
    if states:
        batch["encoder_hidden_states"] = torch.randn(rows, states, hidden, generator=generator)
        batch["encoder_attention_mask"] = mask(states)
    return batch


def make_calibrated_decoder(seed: int = 0, *, states: int = 0, **settings: Any) -> PreTrainedModel:
    """A quantized decoder with a range in every quantizer, by maximum."""
    model = tiny_decoder(seed, cross=states > 0, **settings)
    wrap(model)
    hidden = model.config.hidden_size
    batches = [decoder_batch(8, 24, seed=each, states=states, hidden=hidden) for each in range(3)]
    calibrate(model, batches, settings=CalibrationSettings(method="max"))
    quantization_config(model).task = RECORD.to_dict()
    return model
