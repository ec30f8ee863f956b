"""Text generation: a decoder goes on with a text; scored by the probability it gives to the tokens that came."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from qat.data import Rows
from qat.errors import DataError
from qat.families import find_family
from qat.tasks.base import (
    IGNORED_LABEL,
    Answers,
    Asked,
    Columns,
    Encoded,
    Feature,
    Kept,
    Outputs,
    Prediction,
    Task,
)
from qat.tasks.masking import agree_on_tokens, conclude_tokens, count_tokens, judge_tokens
from qat.tasks.tally import Tally
from qat.tasks.texts import encode_texts, read_text, resolve_max_length

SAID, LIKELIHOOD, LENGTH = "said", "log_likelihood", "length"
"""What a decoder answers to prompts: tokens ``(batch, new tokens)``, how likely each was, how many a row has."""


def find_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that ends a text, as it ended those a decoder was trained on; None where there is none.

    Args:
        tokenizer: the checkpoint's.
    """
    ends: list[int | None] = [tokenizer.sep_token_id, tokenizer.eos_token_id]
    return next((end for end in ends if end is not None), None)


@dataclass(frozen=True, slots=True)
class EncodedText(Encoded):
    """Texts as token ids, each also what is to be said: the model's loss compares every token with the one before."""

    @property
    def scored(self) -> int:
        """How many tokens have one before them."""
        return int((self.lengths - 1).sum())


class TextGeneration(Task):
    """The next token, at every token of a text but its last.

    A text is encoded as the tokenizer does for an encoder: ``[CLS]`` begins it, ``[SEP]`` ends it.
    """

    name = "text-generation"
    columns = Columns(required=("text",), optional=(), label=())
    auto_class = AutoModelForCausalLM
    config: ClassVar[Mapping[str, object]] = {"is_decoder": True}
    token_outputs = ("logits",)
    continues = True

    def encode(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
        require_labels: bool = True,
    ) -> EncodedText:
        """The texts as token ids; what is too long loses its end.

        Arguments and errors as ``Task.encode``; also a DataError for an encoder, which sees the tokens it is to say, or
        a decoder with cross-attention.
        """
        self.check_columns(rows, require_labels=require_labels)
        _require_decoder(config)
        length = resolve_max_length(max_length, tokenizer=tokenizer, config=config, pair=False)
        texts = read_text(rows, "text")
        tokens, too_long = encode_texts(texts, None, tokenizer=tokenizer, config=config, length=length)
        features: list[Feature] = [{**entries, "labels": entries["input_ids"]} for entries in tokens]
        return EncodedText(features, length, len(too_long), rows.source)

    def ask(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
    ) -> EncodedText:
        """The texts as token ids without the one that ends them; arguments and errors as ``Task.ask``."""
        self.check_columns(rows, require_labels=False)
        rows.require_filled(self.columns.required)
        _require_decoder(config)
        length = resolve_max_length(max_length, tokenizer=tokenizer, config=config, pair=False)
        texts, end = read_text(rows, "text"), find_end(tokenizer)
        tokens, too_long = encode_texts(texts, None, tokenizer=tokenizer, config=config, length=length + 1)
        opened = [
            {name: values[:-1] if entries["input_ids"][-1] == end else values for name, values in entries.items()}
            for entries in tokens
        ]
        return EncodedText(opened, length, len(too_long), rows.source)

    def hold(self, answers: Answers, given: Mapping[str, NDArray[Any]], top: int) -> dict[str, Kept]:
        """The tokens said after each text, and their log-likelihoods."""
        there = np.arange(answers[SAID].shape[1]) < answers[LENGTH][:, None]
        return {SAID: (answers[SAID], there), LIKELIHOOD: (answers[LIKELIHOOD], there)}

    def explain(self, outputs: Outputs, asked: Asked) -> list[Prediction]:
        """Of each text what is ``said`` after it, its ``score``, whether it ``ended``, and the whole ``text``."""
        told: list[Prediction] = []
        end = find_end(asked.tokenizer)
        for ids, said, likely in zip(asked.encoded.sequences, outputs[SAID], outputs[LIKELIHOOD], strict=True):
            tokens = [int(token) for token in said[np.isfinite(said)]]
            before, after = (_decode(asked.tokenizer, each) for each in (ids, [*ids, *tokens]))
            told.append(
                {
                    "said": after[len(before) :].strip(),
                    "score": float(np.exp(np.nanmean(likely))),
                    "ended": tokens[-1] == end,
                    "text": after,
                }
            )
        return told

    def keep(self, answers: Answers, given: Mapping[str, NDArray[Any]]) -> dict[str, Kept]:
        """The token said after each but the last, and the log-likelihood of the one that came, at the token before.

        >>> logits = np.log([[[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]])
        >>> kept = TextGeneration().keep({"logits": logits}, {"labels": np.array([[1, 0, -100]])})
        >>> kept["said"][0].tolist(), np.exp(kept["log_likelihood"][0]).tolist(), kept["said"][1].tolist()
        ([[1.0, 0.0, 0.0]], [[0.25, 1.0, 1.0]], [[True, False, False]])
        """
        following = np.pad(given["labels"][:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED_LABEL)
        return judge_tokens(answers["logits"], following)

    def count(self, outputs: Outputs, rows: Encoded) -> Tally:
        """As ``count_tokens``, of every token that has one before it."""
        return count_tokens(outputs, np.concatenate([np.array(ids[1:], np.int64) for ids in rows.sequences]))

    def conclude(self, tally: Tally, rows: Encoded) -> dict[str, float]:
        """How probable the next tokens were to the model, as ``conclude_tokens`` says it.

        >>> rows = EncodedText([{"input_ids": [4, 5, 6]}], max_length=8, truncated=0, source="a row")
        >>> outputs = {"said": np.array([[5.0, 7.0, np.nan]]), "log_likelihood": np.log([[0.5, 0.125, np.nan]])}
        >>> {name: round(value, 6) for name, value in TextGeneration().score(outputs, rows).items()}
        {'token_probability': 0.25, 'perplexity': 4.0, 'accuracy': 0.5}
        """
        if not tally["tokens"]:
            raise DataError(f"{rows.source} has no text of two tokens: there is nothing to say after the first")
        return conclude_tokens(tally)

    def agree(self, first: Outputs, second: Outputs, rows: Encoded) -> NDArray[np.bool_]:
        """For each token that has one before it whether both say the same."""
        return agree_on_tokens(first, second)

    def find_class(self, config: type[PreTrainedConfig]) -> type[PreTrainedModel] | None:
        """The class of a family that decodes as ours do; None for the others."""
        return super().find_class(config) if find_family(config.model_type).decodes else None


def _require_decoder(config: PreTrainedConfig) -> None:
    if not getattr(config, "is_decoder", False):
        raise DataError(
            "text-generation needs a decoder, but this checkpoint sees the tokens it is to say (is_decoder is "
            "false in its config.json): fine-tune it as a decoder, or use another task"
        )
    if config.add_cross_attention:
        raise DataError(
            "text-generation reads texts alone, but this decoder attends to another model's states as well "
            "(add_cross_attention is true in its config.json): give qdq.calibrate batches with "
            "encoder_hidden_states from Python"
        )


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text; of tokens that begin with the same ones it begins the same."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
