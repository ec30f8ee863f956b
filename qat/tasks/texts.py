"""Columns of text, and texts as token ids no longer than a checkpoint takes."""

from collections.abc import Sequence

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from qat.data import Rows
from qat.errors import DataError
from qat.families import longest_row
from qat.tasks.labels import describe_value

_LONGEST_SANE = 1_000_000
"""Tokenizers that know no limit say 10**30; anything above this is no limit."""


def read_text(rows: Rows, column: str) -> list[str]:
    """The texts of one column, one for each row.

    Raises:
        DataError: a row without the column, or whose value is not text.
    """
    texts: list[str] = []
    for number, row in rows.numbered():
        value = row.get(column)
        if not isinstance(value, str):
            raise DataError(f"{rows.source}, row {number}: column '{column}' {describe_value(value)}; expected text")
        texts.append(value)
    return texts


def resolve_max_length(
    asked: int | None, *, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, pair: bool
) -> int:
    """The tokens a row keeps at most: what was asked for, or else the most that tokenizer and model both take.

    Raises:
        DataError: more than the model has positions for, or too few for one token of each text.
    """
    positions = None if getattr(config, "max_position_embeddings", None) is None else longest_row(config)
    if asked is None:
        limits = [n for n in (tokenizer.model_max_length, positions) if n is not None and 0 < n <= _LONGEST_SANE]
        if not limits:
            raise DataError("neither tokenizer nor checkpoint says how long a text may be: use --max-length")
        return int(min(limits))
    if positions is not None and asked > positions:
        raise DataError(
            f"max length {asked} is more than the {positions} positions of the checkpoint: use --max-length {positions}"
        )
    least = tokenizer.num_special_tokens_to_add(pair=pair) + (2 if pair else 1)
    if asked < least:
        raise DataError(f"max length {asked} leaves no room for a token: expected {least} or more")
    return asked


def encode_texts(
    text: Sequence[str],
    pair: Sequence[str] | None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    length: int,
) -> tuple[list[dict[str, list[int]]], list[int]]:
    """The texts, or pairs of them, as entries of a model's input, and which of them were too long.

    What is too long loses its end, of a pair the longer text first. Segment ids (``token_type_ids``) are given for
    pairs only, and where the checkpoint knows more than one segment.

    Args:
        text: the texts.
        pair: their second texts.
        tokenizer: the checkpoint's.
        config: the checkpoint's.
        length: tokens to keep, special tokens included.
    """
    segments = pair is not None and getattr(config, "type_vocab_size", 0) > 1
    second = None if pair is None else list(pair)
    tokens = tokenizer(list(text), second, return_token_type_ids=segments, return_attention_mask=True, verbose=False)
    encoded = [{name: values[row] for name, values in tokens.items()} for row in range(len(text))]
    too_long = [row for row, entries in enumerate(encoded) if len(entries["input_ids"]) > length]
    for row in too_long:
        cut = tokenizer(
            text[row],
            None if pair is None else pair[row],
            truncation=True,
            max_length=length,
            return_token_type_ids=segments,
            return_attention_mask=True,
        )
        encoded[row] = dict(cut.items())
    return encoded, too_long


def encode_columns(
    rows: Rows, *, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, max_length: int | None
) -> tuple[list[dict[str, list[int]]], int, int]:
    """The column ``text``, paired with ``text_pair`` where there is one: entries, tokens kept at most, rows cut.

    Raises:
        DataError: a value that is not text, or a ``max_length`` as of ``resolve_max_length``.
    """
    text = read_text(rows, "text")
    pair = read_text(rows, "text_pair") if "text_pair" in rows.columns else None
    length = resolve_max_length(max_length, tokenizer=tokenizer, config=config, pair=pair is not None)
    tokens, too_long = encode_texts(text, pair, tokenizer=tokenizer, config=config, length=length)
    return tokens, length, len(too_long)
