"""Tiny models with every head, and rows for each: random weights and words, answers of every kind."""

import random
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from qat.data import Rows
from qat.tasks import find_task
from qat.tasks.base import Encoded
from tests.tiny import TINY_MODELS, spread_weights, tiny_rows, tiny_tokenizer

Row = dict[str, object]


def _words(chance: random.Random, most: int) -> list[str]:
    return str(tiny_rows(1, chance.randrange(10**6))[0]["text"]).split()[:most]


def _number(chance: random.Random) -> Row:
    return {
        "text": " ".join(_words(chance, 9)),
        "text_pair": " ".join(_words(chance, 5)),
        "label": round(chance.random() * 5, 3),
    }


def _labels(chance: random.Random) -> Row:
    return {
        "text": " ".join(_words(chance, 9)),
        "label": chance.sample(["animal", "plant", "tool"], chance.randrange(4)),
    }


def _choice(chance: random.Random) -> Row:
    choices = [" ".join(_words(chance, 6)) for _ in range(3)]
    return {"question": " ".join(_words(chance, 4)), "choices": choices, "label": chance.randrange(3)}


def _span(chance: random.Random) -> Row:
    words = _words(chance, 12)
    first = chance.randrange(len(words))
    found = " ".join(words[first : first + 1 + chance.randrange(3)])
    start = len(" ".join([*words[:first], ""]))
    return {"question": " ".join(_words(chance, 4)), "context": " ".join(words), "answer": found, "answer_start": start}


def _tags(chance: random.Random) -> Row:
    words = [chance.choice(["", chance.choice(_words(chance, 3))]) + each for each in _words(chance, 9)]
    return {"tokens": words, "tags": [chance.choice(TAGS) for _ in words]}


TAGS = ("O", "B-noun", "I-noun", "B-verb", "I-verb")


HEADS: Mapping[str, tuple[str, Callable[[random.Random], Row], dict[str, Any]]] = {
    "regression": ("text-classification", _number, {"num_labels": 1}),
    "multi-label": ("text-classification", _labels, {"problem_type": "multi_label_classification"}),
    "multiple-choice": ("multiple-choice", _choice, {}),
    "question-answering": ("question-answering", _span, {"num_labels": 2}),
    "token-classification": (
        "token-classification",
        _tags,
        {"id2label": dict(enumerate(TAGS)), "label2id": {name: number for number, name in enumerate(TAGS)}},
    ),
}
"""Each head's task, what makes one of its rows, and what its configuration says beside a tiny model's."""


def head_rows(head: str, n: int, seed: int = 0) -> Rows:
    """``n`` labelled rows."""
    chance = random.Random(seed)
    return Rows([HEADS[head][1](chance) for _ in range(n)], source=f"{head} rows")


def head_model(head: str, family: str, seed: int = 0, *, layers: int = 2) -> PreTrainedModel:
    """The family's tiny model with the head, in evaluation mode."""
    task, _, settings = HEADS[head]
    config = TINY_MODELS[family]().config
    config.update({**settings, "num_hidden_layers": layers})
    model: PreTrainedModel = find_task(task).auto_class.from_config(config)
    spread_weights(model, seed)
    nn.Module.eval(model)
    return model


def encode_head(head: str, model: PreTrainedModel, n: int, seed: int = 0) -> Encoded:
    """``n`` labelled rows as the model takes them."""
    task = find_task(HEADS[head][0])
    return task.encode(head_rows(head, n, seed), tokenizer=tiny_tokenizer(), config=model.config)
