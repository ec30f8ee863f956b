"""RoBERTa, ELECTRA and DistilBERT: what sets them apart from BERT."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from qat.errors import DataError
from qat.families import find_family, longest_row
from qat.huggingface import unwrap, wrap
from qat.quantizer import disable_quantizers
from qat.split import split_outlier_neurons
from qat.tasks.texts import resolve_max_length
from tests.test_qat.wrapped import DISTILBERT_LAYER, give_ranges, make_float, make_wrapped, same_answers
from tests.tiny import MAX_LENGTH, spread_weights, tiny_distilbert, tiny_electra, tiny_roberta, tiny_tokenizer


def as_published() -> RobertaForSequenceClassification:
    """A RoBERTa whose padding has number 1, as upstream's, so that its first two positions are no token's."""
    config = RobertaConfig(
        vocab_size=195, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=18, type_vocab_size=1,
    )  # fmt: skip
    config.num_labels = 3
    model = RobertaForSequenceClassification(config)
    spread_weights(model, 0)
    model.train(False)
    return model


def test_positions_begin_behind_the_paddings_number() -> None:
    assert longest_row(as_published().config) == 16
    assert longest_row(tiny_roberta().config) == MAX_LENGTH
    assert longest_row(tiny_electra().config) == MAX_LENGTH


def test_a_row_of_every_usable_position_runs() -> None:
    model = as_published()
    wrap(model)
    give_ranges(model)
    assert model(input_ids=torch.full((1, 16), 5)).logits.isfinite().all()


def test_a_row_may_not_be_longer_than_that() -> None:
    with pytest.raises(DataError) as caught:
        resolve_max_length(17, tokenizer=tiny_tokenizer(), config=as_published().config, pair=False)
    assert str(caught.value) == "max length 17 is more than the 16 positions of the checkpoint: use --max-length 16"


def test_it_is_the_float_model_when_switched_off() -> None:
    model, plain = as_published(), as_published()
    wrap(model)
    give_ranges(model)
    plain.set_attn_implementation("eager")
    ids = torch.randint(3, 150, (2, 9), generator=torch.Generator().manual_seed(0))
    ids[1, 5:] = 1
    batch = {"input_ids": ids, "attention_mask": (ids != 1).long()}
    with torch.no_grad(), disable_quantizers(model):
        assert torch.equal(model(**batch).logits, plain(**batch).logits)


@pytest.mark.parametrize("size", [16, 32])
def test_the_stream_of_an_electra_begins_at_its_projection_where_it_has_one(size: int) -> None:
    model = tiny_electra(embedding_size=size)
    first = find_family("electra").stream_tensors(model)[0]
    assert first.writers == ("electra.embeddings_project" if size == 16 else "electra.embeddings.LayerNorm",)


def test_a_distilbert_quantizes_what_its_feed_forward_block_reads_where_it_is_made() -> None:
    model = make_wrapped("distilbert")
    seen: list[torch.Tensor] = []
    for path in ("ffn", "ffn.lin1"):
        part = model.get_submodule(f"{DISTILBERT_LAYER}.{path}")
        part.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    norm = model.get_submodule(f"{DISTILBERT_LAYER}.sa_layer_norm")
    made: list[torch.Tensor] = []
    norm.register_forward_hook(lambda *found: made.append(found[-1]))
    ids = torch.tensor([[5, 6, 7]])
    model(input_ids=ids)
    assert all(each is made[0] for each in seen)
    assert 1 < len(made[0].unique()) <= 255


def test_outlier_neurons_of_a_distilbert_are_split_and_its_folder_says_their_number(tmp_path: Path) -> None:
    model = tiny_distilbert()
    with torch.no_grad():
        for name, _ in find_family("distilbert").layers(model):
            model.get_parameter(f"{name}.ffn.lin2.weight")[:, 3] *= 30
    plain = model.config.hidden_dim
    ids = torch.tensor([[5, 6, 7]])
    before = model(input_ids=ids).logits
    assert split_outlier_neurons(model)
    assert model.config.hidden_dim > plain
    torch.testing.assert_close(model(input_ids=ids).logits, before)
    wrap(model)
    give_ranges(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], x) for name, x in model.state_dict().items())


@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert"])
def test_unwrapped_they_are_themselves_again(family: str) -> None:
    model = make_wrapped(family)
    unwrap(model)
    plain = make_float(family)
    assert {type(module) for module in model.modules()} == {type(module) for module in plain.modules()}
    assert same_answers(model, plain)
