"""Masked words: hidden tokens of a text are found again; scored by the probability the right ones were given."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoModelForMaskedLM, PreTrainedConfig, PreTrainedTokenizerBase

from qat.data import Rows
from qat.tasks.base import Answers, Asked, Columns, Encoded, Kept, Outputs, Prediction, Task
from qat.tasks.holes import fill_holes, hold_likeliest, mark_holes, require_holes
from qat.tasks.masking import (
    EncodedMasks,
    agree_on_tokens,
    conclude_tokens,
    count_tokens,
    find_masked,
    judge_tokens,
    mask_rows,
)
from qat.tasks.tally import Tally
from qat.tasks.texts import encode_columns


class FillMask(Task):
    """The hidden tokens of a text or a pair of texts; the labels are the texts' own tokens.

    Which tokens are hidden is fixed when rows are encoded (``qat.tasks.masking``).
    """

    name = "fill-mask"
    columns = Columns(required=("text",), optional=("text_pair",), label=())
    auto_class = AutoModelForMaskedLM
    token_outputs = ("logits",)

    def encode(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
        require_labels: bool = True,
    ) -> EncodedMasks:
        """The texts as token ids, some of them hidden; what is too long loses its end, of a pair the longer text first.

        Arguments and errors as ``Task.encode``; also a DataError for a text without a word, or a tokenizer without a
        mask.
        """
        self.check_columns(rows, require_labels=require_labels)
        tokens, length, cut = encode_columns(rows, tokenizer=tokenizer, config=config, max_length=max_length)
        return EncodedMasks(mask_rows(tokens, tokenizer, given=rows), length, cut, rows.source)

    def ask(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
    ) -> EncodedMasks:
        """The texts as token ids; what is to be found are the mask tokens that they hold.

        Arguments and errors as ``Task.ask``; also a DataError for a text without a mask token.
        """
        self.check_columns(rows, require_labels=False)
        rows.require_filled(self.columns.required)
        tokens, length, cut = encode_columns(rows, tokenizer=tokenizer, config=config, max_length=max_length)
        marked = mark_holes(tokens, tokenizer)
        require_holes(marked, rows, tokenizer)
        return EncodedMasks(marked, length, cut, rows.source)

    def hold(self, answers: Answers, given: Mapping[str, NDArray[Any]], top: int) -> dict[str, Kept]:
        """The likeliest tokens for each mask."""
        return hold_likeliest(answers["logits"], given["labels"], top)

    def explain(self, outputs: Outputs, asked: Asked) -> list[Prediction]:
        """Of each text its ``masks``, with ``token`` and ``score`` each, and the ``text`` with them in place."""
        return fill_holes(outputs, asked)

    def keep(self, answers: Answers, given: Mapping[str, NDArray[Any]]) -> dict[str, Kept]:
        """The token said for each hidden one, and the log-likelihood of the right one."""
        return judge_tokens(answers["logits"], given["labels"])

    def count(self, outputs: Outputs, rows: Encoded) -> Tally:
        """As ``count_tokens``, of the hidden tokens."""
        return count_tokens(outputs, find_masked(rows))

    def conclude(self, tally: Tally, rows: Encoded) -> dict[str, float]:
        """How probable the hidden tokens were to the model, as ``conclude_tokens`` says it."""
        return conclude_tokens(tally)

    def agree(self, first: Outputs, second: Outputs, rows: Encoded) -> NDArray[np.bool_]:
        """For each hidden token whether both say the same one."""
        return agree_on_tokens(first, second)
