"""Feature extraction: texts as vectors; scored by the float model's vectors, and by pairs that are to be found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from qat.data import Rows
from qat.errors import DataError
from qat.pooling import FIELD, Pooling, read_pooling, remember_pooling, set_pooling
from qat.recipe import validate_settings
from qat.sentence_transformers import read_sentence_transformers
from qat.tasks.base import Answers, Asked, Columns, Encoded, Kept, Outputs, Prediction, Task
from qat.tasks.embeddings import EncodedTexts, find_cosines, list_pairs, rank_pairs
from qat.tasks.tally import Tally, count_sums, divide
from qat.tasks.texts import encode_texts, read_text, resolve_max_length

_SAME = 0.99
"""Two models embed a text alike where the cosine of the two vectors is at least that."""

_TOP = (10, 1)
_VECTORS = "vectors"
_TOKENS = "last_hidden_state"


class FeatureExtraction(Task):
    """A base model: a vector a text, or a token, as ``qat.pooling`` says; a row may have a second text to be found.

    There are no labels: a model learns from the float one alone.
    """

    name = "feature-extraction"
    columns = Columns(required=("text",), optional=("text_pair",), label=())
    auto_class = AutoModel
    optional_weights = ("pooler.",)
    refers = True

    def __init__(self, pooling: Pooling | None = None) -> None:
        self._given = pooling

    def configure(self, settings: Mapping[str, object]) -> Self:
        """The task with that pooling, whatever a float checkpoint says; as it is where nothing is set.

        Raises:
            RecipeError: no such setting, or value.
        """
        return type(self)(validate_settings(Pooling, settings, where="task settings")) if settings else self

    def settle(self, config: PreTrainedConfig) -> Self:
        """The task with the pooling that ``config`` remembers."""
        return type(self)(read_pooling(config) or self._given)

    def adopt(self, config: PreTrainedConfig, folder: Path) -> PreTrainedConfig:
        """``config``, remembering how its checkpoint pools: as before, as told, or as sentence-transformers says.

        Raises:
            CheckpointError: modules of sentence-transformers that do something else.
        """
        if read_pooling(config) is None:
            remember_pooling(config, self._given or read_sentence_transformers(folder) or Pooling())
        return config

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """``model``, made to pool as its configuration says."""
        set_pooling(model, read_pooling(model.config) or Pooling())
        return model

    def name_outputs(self, config: PreTrainedConfig) -> tuple[str, ...]:
        """One vector a text where they are pooled, else one a token."""
        return ((read_pooling(config) or Pooling()).output,)

    def encode(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
        require_labels: bool = True,
    ) -> EncodedTexts:
        """The texts as token ids, each second text behind its first as one of its own.

        Arguments and errors as ``Task.encode``; also a DataError for pairs where no text has one vector.
        """
        self.check_columns(rows, require_labels=require_labels)
        pooling = read_pooling(config) or self._given or Pooling()
        texts = [read_text(rows, name) for name in ("text", "text_pair") if name in rows.columns]
        if len(texts) > 1 and pooling.pooling == "none":
            raise DataError(
                f"{rows.source} has a column 'text_pair' to be found, which needs one vector a text: calibrate with "
                "--set task.pooling=mean, or cls"
            )
        length = resolve_max_length(max_length or pooling.longest, tokenizer=tokenizer, config=config, pair=False)
        every = [text for row in zip(*texts, strict=True) for text in row]
        tokens, too_long = encode_texts(every, None, tokenizer=tokenizer, config=config, length=length)
        pairs = [(place, place + 1) for place in range(0, len(every), 2)] if len(texts) > 1 else []
        return EncodedTexts(tokens, length, len(too_long), rows.source, pairs=pairs)

    def ask(
        self,
        rows: Rows,
        *,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        max_length: int | None = None,
    ) -> Encoded:
        """As ``Task.ask``; a second text is left out."""
        return super().ask(rows.without(["text_pair"]), tokenizer=tokenizer, config=config, max_length=max_length)

    def explain(self, outputs: Outputs, asked: Asked) -> list[Prediction]:
        """Of each text its ``vector``, or ``vectors``, one a token, special tokens included."""
        vectors = outputs[_VECTORS]
        if vectors.ndim == 2:
            return [{"vector": vector.tolist()} for vector in vectors]
        lengths = asked.encoded.lengths
        return [{"vectors": row[:length].tolist()} for row, length in zip(vectors, lengths, strict=True)]

    def keep(self, answers: Answers, given: Mapping[str, NDArray[Any]]) -> dict[str, Kept]:
        """The vectors of texts, or of their real tokens."""
        if FIELD in answers:
            return {_VECTORS: (answers[FIELD], np.ones(1, np.bool_))}
        return {_VECTORS: (answers[_TOKENS], given["attention_mask"][..., None] != 0)}

    def refer(self, rows: Encoded, outputs: Outputs) -> Encoded:
        """The rows with the vectors that the float model gives."""
        return EncodedTexts(
            rows.features, rows.max_length, rows.truncated, rows.source, pairs=_pairs_of(rows), wanted=outputs[_VECTORS]
        )

    def count(self, outputs: Outputs, rows: Encoded) -> Tally:
        """The vectors of the pairs, which are ranked among all, and the sum of the cosines to the float vectors."""
        assert isinstance(rows, EncodedTexts), "the rows of feature extraction come from its own encode"
        found = dict(list_pairs(outputs[_VECTORS], rows)) if rows.pairs else {}
        if rows.wanted is not None:
            cosines = find_cosines(outputs[_VECTORS], rows.wanted)
            found |= count_sums(cosine=float(cosines.sum()), n=len(cosines))
        return found

    def conclude(self, tally: Tally, rows: Encoded) -> dict[str, float]:
        """The share of pairs found among the nearest ten, and as the nearest; the mean cosine to the float vectors.

        Raises:
            DataError: neither pairs nor float vectors to compare with.
        """
        scores: dict[str, float] = {}
        if "names" in tally:
            ranks = rank_pairs(tally)
            scores |= {f"recall_at_{top}": float((ranks < top).mean()) for top in _TOP}
        if "cosine" in tally:
            scores["cosine"] = divide(tally, "cosine")
        if not scores:
            raise DataError(
                f"{rows.source} has no column 'text_pair' to be found, and no float model says what is right: add "
                "--reference with the float checkpoint"
            )
        return scores

    def agree(self, first: Outputs, second: Outputs, rows: Encoded) -> NDArray[np.bool_]:
        """For each text whether the cosine of its two vectors is at least 0.99."""
        same: NDArray[np.bool_] = find_cosines(first[_VECTORS], second[_VECTORS]) >= _SAME
        return same


def _pairs_of(rows: Encoded) -> list[tuple[int, int]]:
    return list(rows.pairs) if isinstance(rows, EncodedTexts) else []
