"""Pretraining: hidden tokens of a pair of texts are found, and its order or belonging together is judged."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score
from transformers import AutoModelForPreTraining, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from qat.data import Rows
from qat.errors import DataError
from qat.tasks.base import Answers, Columns, Encoded, Feature, Kept, Outputs, Task
from qat.tasks.masking import EncodedMasks, agree_on_tokens, find_masked, judge_tokens, mask_rows, score_tokens
from qat.tasks.next_sentence_prediction import read_pair_labels
from qat.tasks.texts import encode_texts, read_text, resolve_max_length

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
        length = resolve_max_length(max_length, tokenizer=tokenizer, config=config, pair=True)
        texts = read_text(rows, "text"), read_text(rows, "text_pair")
        tokens, too_long = encode_texts(*texts, tokenizer=tokenizer, config=config, length=length)
        hidden = mask_rows(tokens, tokenizer, source=rows.source)
        features: list[Feature] = [*hidden]
        if "label" in rows.columns:
            labels = read_pair_labels(rows, yes=head.yes, no=head.no)
            features = [{**feature, head.target: label} for feature, label in zip(hidden, labels, strict=True)]
        return EncodedMasks(features, length, len(too_long), rows.source)

    def keep(self, answers: Answers, given: Mapping[str, NDArray[Any]]) -> dict[str, Kept]:
        """What was said for hidden tokens, and the logits of the pairs."""
        (pairs,) = (answers[head.output] for head in _HEADS if head.output in answers)
        return {**judge_tokens(answers[_TOKENS], given["labels"]), _PAIRS: (pairs, np.ones(1, np.bool_))}

    def score(self, outputs: Outputs, rows: Encoded) -> dict[str, float]:
        """How probable the hidden tokens were, as ``score_tokens`` says it, and the share of pairs judged right."""
        target = next((head.target for head in _HEADS if head.target in rows[0]), _HEADS[0].target)
        pairs = accuracy_score(rows.read(target), outputs[_PAIRS].argmax(axis=1))
        return {**score_tokens(outputs, find_masked(rows)), "pair_accuracy": float(pairs)}

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
