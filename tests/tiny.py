"""Tiny tokenizers, models and rows, built in code, for tests that want the real classes and no download."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    ConvBertConfig,
    ConvBertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaForSequenceClassification,
    SqueezeBertConfig,
    SqueezeBertForSequenceClassification,
)

LABELS = ("animal", "plant", "tool", "place", "person")
"""Names of the labels, the first ``num_labels`` of them."""

MAX_LENGTH = 64
"""Positions that the tiny models have."""

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou")
_WORDS = tuple(first + second for first, second in zip(_SYLLABLES, _SYLLABLES[1:] + _SYLLABLES[:1], strict=True))
_PIECES = tuple(f"##{syllable}" for syllable in _SYLLABLES[:50])
_VOCABULARY = (*_SPECIAL, *_SYLLABLES, *_WORDS, *_PIECES)
_KEYWORDS = 8


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer over 195 made-up words and pieces; anything else is ``[UNK]``."""
    vocabulary = {word: number for number, word in enumerate(_VOCABULARY)}
    tokenizer: PreTrainedTokenizerBase = BertTokenizer(vocab=vocabulary, model_max_length=MAX_LENGTH)
    return tokenizer


def tiny_rows(n: int, seed: int = 0, *, num_labels: int = 3) -> list[dict[str, object]]:
    """``n`` rows of ``text`` (3 to 20 words) and ``label``; a text holds two words that only its label's texts have."""
    chance = random.Random(seed)
    rows: list[dict[str, object]] = []
    for _ in range(n):
        label = chance.randrange(num_labels)
        words = chance.choices(_SYLLABLES, k=chance.randint(1, 18))
        for _ in range(2):
            word = _WORDS[label * _KEYWORDS + chance.randrange(_KEYWORDS)]
            words.insert(chance.randint(0, len(words)), word)
        rows.append({"text": " ".join(words), "label": LABELS[label]})
    return rows


def tiny_bert(num_labels: int = 3, seed: int = 0, *, num_hidden_layers: int = 2) -> BertForSequenceClassification:
    """A BERT of hidden size 32 with 4 heads, in evaluation mode; the same seed gives the same weights."""
    config = BertConfig(
        vocab_size=len(_VOCABULARY),
        hidden_size=32,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
    )
    _name_labels(config, num_labels)
    model = BertForSequenceClassification(config)
    spread_weights(model, seed)
    nn.Module.eval(model)
    return model


def tiny_albert(
    num_labels: int = 3,
    seed: int = 0,
    *,
    num_hidden_layers: int = 3,
    num_hidden_groups: int = 1,
    inner_group_num: int = 1,
) -> AlbertForSequenceClassification:
    """An ALBERT of hidden size 32, embedding 16, with 4 heads, in evaluation mode; its layers share weights."""
    config = AlbertConfig(
        vocab_size=len(_VOCABULARY),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=num_hidden_layers,
        num_hidden_groups=num_hidden_groups,
        inner_group_num=inner_group_num,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    _name_labels(config, num_labels)
    model = AlbertForSequenceClassification(config)
    spread_weights(model, seed)
    nn.Module.eval(model)
    return model


def tiny_convbert(
    num_labels: int = 3,
    seed: int = 0,
    *,
    num_hidden_layers: int = 2,
    num_groups: int = 2,
    head_ratio: int = 2,
    conv_kernel_size: int = 5,
) -> ConvBertForSequenceClassification:
    """A ConvBERT of hidden size 32, embedding 16, with 4 heads shared out by ``head_ratio``, in evaluation mode."""
    config = ConvBertConfig(
        vocab_size=len(_VOCABULARY),
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=4,
        head_ratio=head_ratio,
        num_groups=num_groups,
        conv_kernel_size=conv_kernel_size,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    _name_labels(config, num_labels)
    model = ConvBertForSequenceClassification(config)
    spread_weights(model, seed)
    nn.Module.eval(model)
    return model


def tiny_squeezebert(
    num_labels: int = 3, seed: int = 0, *, num_hidden_layers: int = 2, **groups: int
) -> SqueezeBertForSequenceClassification:
    """A SqueezeBERT of hidden size 32 with 4 heads, in evaluation mode; ``groups`` as in its configuration."""
    config = SqueezeBertConfig(
        vocab_size=len(_VOCABULARY),
        embedding_size=32,
        hidden_size=32,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
    )
    _name_labels(config, num_labels)
    config.update(groups)
    model = SqueezeBertForSequenceClassification(config)
    spread_weights(model, seed)
    nn.Module.eval(model)
    return model


def tiny_roberta(num_labels: int = 3, seed: int = 0) -> RobertaForSequenceClassification:
    """A RoBERTa of hidden size 32 with 4 heads, in evaluation mode; padding has number 0, so position 0 is its own."""
    config = RobertaConfig(
        vocab_size=len(_VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH + 1,
        type_vocab_size=2,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    _name_labels(config, num_labels)
    model = RobertaForSequenceClassification(config)
    spread_weights(model, seed)
    nn.Module.eval(model)
    return model


def tiny_electra(num_labels: int = 3, seed: int = 0, *, embedding_size: int = 16) -> ElectraForSequenceClassification:
    """An ELECTRA of hidden size 32 with 4 heads, in evaluation mode."""
    config = ElectraConfig(
        vocab_size=len(_VOCABULARY),
        embedding_size=embedding_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
    )
    _name_labels(config, num_labels)
    model = ElectraForSequenceClassification(config)
    spread_weights(model, seed)
    nn.Module.eval(model)
    return model


def tiny_distilbert(num_labels: int = 3, seed: int = 0) -> DistilBertForSequenceClassification:
    """A DistilBERT of hidden size 32 with 4 heads, in evaluation mode."""
    config = DistilBertConfig(
        vocab_size=len(_VOCABULARY), dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=MAX_LENGTH
    )
    _name_labels(config, num_labels)
    model = DistilBertForSequenceClassification(config)
    spread_weights(model, seed)
    nn.Module.eval(model)
    return model


TINY_MODELS: Mapping[str, Callable[[], PreTrainedModel]] = {
    "bert": tiny_bert,
    "albert": tiny_albert,
    "convbert": tiny_convbert,
    "squeezebert": tiny_squeezebert,
    "roberta": tiny_roberta,
    "electra": tiny_electra,
    "distilbert": tiny_distilbert,
}
"""The tiny model of every family; a new family's entry here puts it into the tests that all families pass."""


def spread_weights(model: PreTrainedModel, seed: int, std: float = 0.2) -> None:
    """New weights in place: the usual 0.02 leaves every activation of so small a model near zero."""
    generator = torch.Generator().manual_seed(seed)
    gains = {id(module.weight) for module in model.modules() if isinstance(module, nn.LayerNorm)}
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if id(parameter) in gains else std * noise)


def save_tiny(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """``folder``, holding the model and its tokenizer as a Hugging Face checkpoint."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _name_labels(config: PreTrainedConfig, num_labels: int) -> None:
    config.id2label = dict(enumerate(LABELS[:num_labels]))
    config.label2id = {name: number for number, name in config.id2label.items()}
