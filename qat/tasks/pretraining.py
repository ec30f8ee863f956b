"""Pretraining: hidden tokens of a pair of texts are found, and its order or belonging together is judged."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from transformers import AutoModelForPreTraining, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from qat.data import Rows
from qat.errors import DataError
from qat.tasks.base import Answers, Asked, Columns, Encoded, Feature, Kept, Outputs, Prediction, Task
from qat.tasks.holes import fill_holes, hold_likeliest, mark_holes
from qat.tasks.masking import (
    EncodedMasks,
    agree_on_tokens,
    conclude_tokens,
    count_tokens,
    find_masked,
    judge_tokens,
    mask_rows,
)
from qat.tasks.next_sentence_prediction import read_pair_labels
from qat.tasks.tally import Tally, count_sums, divide
from qat.tasks.texts import encode_columns

_TOKENS, _PAIRS = "prediction_logits", "pair_logits"


@dataclass(frozen=True, kw_only=True, slots=True)
class PairHead:
    """The second head of a model in pretraining.

    Attributes:
        target: what its labels are called.
        output: the field of its logits, ``(rows, 2)``.
        yes: what label 0 says of a pair.
        no: what label 1 says.
        sized: whether it has as many logits as the configuration has labels, and so needs two of those.
    """

    target: str
    output: str
    yes: str
    no: str
    sized: bool = False


_HEADS = (
    PairHead(
        target="next_sentence_label",
        output="seq_relationship_logits",
        yes="the second text follows the first",
        no="it does not",
    ),
    PairHead(
        target="sentence_order_label",
        output="sop_logits",
        yes="the texts are in order",
        no="they are swapped",
        sized=True,
    ),
)
"""Of BERT (Devlin et al. 2019, arXiv 1810.04805) and of ALBERT (Lan et al. 2020, arXiv 1909.11942)."""


class Pretraining(Task):
    """Masked words and a judgement of the pair they stand in: whether it belongs together (BERT) or its order (ALBERT).

    The label is of the pair, 0 or 1 as transformers counts; which tokens are hidden is fixed when rows are encoded
    (``qat.tasks.masking``). Models that transformers pretrains in other ways have no such head.
    """

    name = "pretraining"
    columns = Columns(required=("text", "text_pair"), optional=(), label=("label",))
    auto_class = AutoModelForPreTraining
    token_outputs = (_TOKENS,)

    def find_class(self, config: type[PreTrainedConfig]) -> type[PreTrainedModel] | None:
        """As ``Task.find_class``, where the class has both heads."""
        found = super().find_class(config)
        return None if found is None or _pair_head(found) is None else found

    def name_outputs(self, config: PreTrainedConfig) -> tuple[str, ...]:
        """The logits of tokens and of pairs."""
        return _TOKENS, self._find_head(config).output

    def encode(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
        require_labels: bool = True,
    ) -> EncodedMasks:
        """The pairs as token ids, some of them hidden; of what is too long the longer text loses its end first.

        Arguments and errors as ``Task.encode``; also a DataError for a label that is neither 0 nor 1, a pair without a
        word, or a tokenizer without a mask.
        """
        self.check_columns(rows, require_labels=require_labels)
        head = self._find_head(config)
        if head.sized and config.num_labels != 2:
            raise DataError(
                f"the checkpoint's head has {config.num_labels} labels: pretraining expects 2, for the right order and "
                "the other one; set num_labels when the head is made"
            )
        tokens, length, cut = encode_columns(rows, tokenizer=tokenizer, config=config, max_length=max_length)
        hidden = mask_rows(tokens, tokenizer, given=rows)
        features: list[Feature] = [*hidden]
        if "label" in rows.columns:
            labels = read_pair_labels(rows, yes=head.yes, no=head.no)
            features = [{**feature, head.target: label} for feature, label in zip(hidden, labels, strict=True)]
        return EncodedMasks(features, length, cut, rows.source)

    def ask(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
    ) -> EncodedMasks:
        """The pairs as token ids; what is to be found are the mask tokens that they hold, if any.

        Arguments and errors as ``Task.ask``.
        """
        self.check_columns(rows, require_labels=False)
        rows.require_filled(self.columns.required)
        tokens, length, cut = encode_columns(rows, tokenizer=tokenizer, config=config, max_length=max_length)
        return EncodedMasks(mark_holes(tokens, tokenizer), length, cut, rows.source)

    def hold(self, answers: Answers, given: Mapping[str, NDArray[Any]], top: int) -> dict[str, Kept]:
        """The likeliest tokens for each mask, and the logits of the pairs."""
        return {**hold_likeliest(answers[_TOKENS], given["labels"], top), **_keep_pairs(answers)}

    def explain(self, outputs: Outputs, asked: Asked) -> list[Prediction]:
        """As of masked words, and of each ``pair`` what is ``said`` of it with its ``label`` and ``score``."""
        head = self._find_head(asked.config)
        chances = softmax(outputs[_PAIRS].astype(np.float64), axis=1)
        pairs = [
            {"said": (head.yes, head.no)[int(pair.argmax())], "label": int(pair.argmax()), "score": float(pair.max())}
            for pair in chances
        ]
        return [{**row, "pair": pair} for row, pair in zip(fill_holes(outputs, asked), pairs, strict=True)]

    def keep(self, answers: Answers, given: Mapping[str, NDArray[Any]]) -> dict[str, Kept]:
        """What was said for hidden tokens, and the logits of the pairs."""
        return {**judge_tokens(answers[_TOKENS], given["labels"]), **_keep_pairs(answers)}

    def count(self, outputs: Outputs, rows: Encoded) -> Tally:
        """As ``count_tokens``, of the hidden tokens, and the pairs that were judged right."""
        target = next((head.target for head in _HEADS if head.target in rows[0]), _HEADS[0].target)
        right = outputs[_PAIRS].argmax(axis=1) == rows.read(target)
        hidden = count_tokens(outputs, find_masked(rows))
        return {**hidden, **count_sums(right=float(right.sum()), n=len(rows))}

    def conclude(self, tally: Tally, rows: Encoded) -> dict[str, float]:
        """How probable the hidden tokens were, as ``conclude_tokens`` says it, and the share of pairs judged right."""
        return {**conclude_tokens(tally), "pair_accuracy": divide(tally, "right")}

    def agree(self, first: Outputs, second: Outputs, rows: Encoded) -> NDArray[np.bool_]:
        """For each hidden token whether both say the same one, then for each pair whether both judge it alike."""
        pairs = first[_PAIRS].argmax(axis=1) == second[_PAIRS].argmax(axis=1)
        return np.concatenate([agree_on_tokens(first, second), pairs])

    def _find_head(self, config: PreTrainedConfig) -> PairHead:
        found = self.find_class(type(config))
        head = None if found is None else _pair_head(found)
        if head is None:
            raise DataError(f"{config.model_type} is not pretrained on masked words and pairs: use --task fill-mask")
        return head


def _pair_head(model_class: type[PreTrainedModel]) -> PairHead | None:
    takes = inspect.signature(model_class.forward).parameters
    return next((head for head in _HEADS if head.target in takes), None)


def _keep_pairs(answers: Answers) -> dict[str, Kept]:
    """The logits of the pairs, whichever head gave them."""
    (pairs,) = (answers[head.output] for head in _HEADS if head.output in answers)
    return {_PAIRS: (pairs, np.ones(1, np.bool_))}
