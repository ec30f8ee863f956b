"""Masked words: hidden tokens of a text are found again; scored by the probability the right ones were given."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoModelForMaskedLM, PreTrainedConfig, PreTrainedTokenizerBase

from qat.data import Rows
from qat.tasks.base import Answers, Columns, Encoded, Kept, Outputs, Task
from qat.tasks.masking import EncodedMasks, agree_on_tokens, find_masked, judge_tokens, mask_rows, score_tokens
from qat.tasks.texts import encode_texts, read_text, resolve_max_length


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
        text = read_text(rows, "text")
        pair = read_text(rows, "text_pair") if "text_pair" in rows.columns else None
        length = resolve_max_length(max_length, tokenizer=tokenizer, config=config, pair=pair is not None)
        tokens, too_long = encode_texts(text, pair, tokenizer=tokenizer, config=config, length=length)
        return EncodedMasks(mask_rows(tokens, tokenizer, source=rows.source), length, len(too_long), rows.source)

    def keep(self, answers: Answers, given: Mapping[str, NDArray[Any]]) -> dict[str, Kept]:
        """The token said for each hidden one, and the log-likelihood of the right one."""
        return judge_tokens(answers["logits"], given["labels"])

    def score(self, outputs: Outputs, rows: Encoded) -> dict[str, float]:
        """How probable the hidden tokens were to the model, as ``score_tokens`` says it."""
        return score_tokens(outputs, find_masked(rows))

    def agree(self, first: Outputs, second: Outputs, rows: Encoded) -> NDArray[np.bool_]:
        """For each hidden token whether both say the same one."""
        return agree_on_tokens(first, second)
