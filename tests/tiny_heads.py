"""Tiny models with every head, and rows for each: random weights and words, answers of every kind."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from qat.cells import Cell
from qat.data import Rows
from qat.tasks import find_task
from qat.tasks.base import Encoded
from tests.tiny import TINY_MODELS, spread_weights, tiny_rows, tiny_tokenizer

Row = dict[str, object]


def _words(chance: random.Random, most: int) -> list[str]:
    return str(tiny_rows(1, chance.randrange(10**6))[0]["text"]).split()[:most]


def _label(chance: random.Random) -> Row:
    return tiny_rows(1, chance.randrange(10**6))[0]


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


def _text(chance: random.Random) -> Row:
    return {"text": " ".join(_words(chance, 12))}


def _pair(chance: random.Random) -> Row:
    """Two texts; where the label says so the second goes on with the words of the first."""
    words, label = _words(chance, 14), chance.randrange(2)
    second = words[len(words) // 2 :] if label == 0 else _words(chance, 7)
    return {"text": " ".join(words[: len(words) // 2 or 1]), "text_pair": " ".join(second), "label": label}


def _found(chance: random.Random) -> Row:
    """A text and one that is to be found for it."""
    return {"text": " ".join(_words(chance, 9)), "text_pair": " ".join(_words(chance, 12))}


def _tags(chance: random.Random) -> Row:
    words = [chance.choice(["", chance.choice(_words(chance, 3))]) + each for each in _words(chance, 9)]
    return {"tokens": words, "tags": [chance.choice(TAGS) for _ in words]}


TAGS = ("O", "B-noun", "I-noun", "B-verb", "I-verb")


@dataclass(frozen=True, kw_only=True)
class TinyHead:
    """A head to try: its task, what makes one of its rows, and what its configuration says beside a tiny model's.

    Attributes:
        task: the task's name.
        kind: which of the task's heads, where it has several.
        row: makes one labelled row.
        settings: of the model's configuration.
        metrics: what the task scores, the headline first.
    """

    task: str
    kind: str | None = None
    row: Callable[[random.Random], Row]
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...]


HEADS: Mapping[str, TinyHead] = {
    "feature-extraction": TinyHead(
        task="feature-extraction",
        row=_found,
        settings={"embedding": {"pooling": "mean", "normalize": True}},
        metrics=("recall_at_10", "recall_at_1", "cosine"),
    ),
    "fill-mask": TinyHead(task="fill-mask", row=_text, metrics=("token_probability", "perplexity", "accuracy")),
    "next-sentence-prediction": TinyHead(task="next-sentence-prediction", row=_pair, metrics=("accuracy",)),
    "pretraining": TinyHead(
        task="pretraining",
        row=_pair,
        settings={"num_labels": 2},
        metrics=("token_probability", "perplexity", "accuracy", "pair_accuracy"),
    ),
    "single-label": TinyHead(
        task="text-classification", kind="single_label_classification", row=_label, metrics=("accuracy",)
    ),
    "multi-label": TinyHead(
        task="text-classification",
        kind="multi_label_classification",
        row=_labels,
        settings={"problem_type": "multi_label_classification"},
        metrics=("f1_micro",),
    ),
    "regression": TinyHead(
        task="text-classification",
        kind="regression",
        row=_number,
        settings={"num_labels": 1},
        metrics=("spearman", "pearson"),
    ),
    "multiple-choice": TinyHead(task="multiple-choice", row=_choice, metrics=("accuracy",)),
    "question-answering": TinyHead(
        task="question-answering", row=_span, settings={"num_labels": 2}, metrics=("f1", "exact_match")
    ),
    "text-generation": TinyHead(
        task="text-generation",
        row=_text,
        settings={"is_decoder": True},
        metrics=("token_probability", "perplexity", "accuracy"),
    ),
    "token-classification": TinyHead(
        task="token-classification",
        row=_tags,
        settings={
            "id2label": dict(enumerate(TAGS)),
            "label2id": {name: number for number, name in enumerate(TAGS)},
        },
        metrics=("f1", "precision", "recall", "accuracy"),
    ),
}
"""Every head there is; a new one's entry here puts it on every family into the tests that all heads pass.

``tests/contracts/test_matrix.py`` fails for a task or family that has no entry here or in ``TINY_MODELS``.
"""


def find_head(cell: Cell) -> str:
    """The entry that stands for a head of the registry.

    Raises:
        LookupError: there is none.
    """
    for name, head in HEADS.items():
        if (head.task, head.kind) == (cell.task.name, cell.kind):
            return name
    raise LookupError(f"tests/tiny_heads.py has no entry for {cell.head}")


def head_rows(head: str, n: int, seed: int = 0) -> Rows:
    """``n`` labelled rows."""
    chance = random.Random(seed)
    return Rows([HEADS[head].row(chance) for _ in range(n)], source=f"{head} rows")


def head_model(head: str, family: str, seed: int = 0, *, layers: int = 2) -> PreTrainedModel:
    """The family's tiny model with the head, in evaluation mode."""
    config = TINY_MODELS[family]().config
    config.update({**HEADS[head].settings, "num_hidden_layers": layers})
    task = find_task(HEADS[head].task)
    model: PreTrainedModel = task.auto_class.from_config(config)
    spread_weights(model, seed)
    nn.Module.eval(model)
    return task.prepare(model)


def encode_head(head: str, model: PreTrainedModel, n: int, seed: int = 0) -> Encoded:
    """``n`` labelled rows as the model takes them."""
    task = find_task(HEADS[head].task)
    return task.encode(head_rows(head, n, seed), tokenizer=tiny_tokenizer(), config=model.config)
