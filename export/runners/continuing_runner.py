"""A decoder as a runner of prompts: fed like any other, it answers what it says after them."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from export.runners.base import Arrays
from export.runners.greedy_decoder import GreedyDecoder
from qat.tasks.text_generation import LENGTH, LIKELIHOOD, SAID


class ContinuingRunner:
    """Says the likeliest tokens after every prompt; open it with ``with``.

    Args:
        decoder: not yet entered.
        new_tokens: said at most.
        ends: the token after which a row says nothing more, None for none.
        pad: stands behind it.
    """

    def __init__(self, decoder: GreedyDecoder, *, new_tokens: int, ends: int | None, pad: int) -> None:
        self.name, self.precision = decoder.prompt.name, decoder.prompt.precision
        self.inputs: Mapping[str, tuple[int | str, ...]] = decoder.prompt.inputs
        self._decoder = decoder
        self._settings: dict[str, Any] = {"max_new_tokens": new_tokens, "ends": ends, "pad": pad}

    def __enter__(self) -> Self:
        self._decoder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoder.__exit__(kind, error, trace)

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """The tokens said, how likely each was and how many a row has.

        Raises:
            DataError: as ``GreedyDecoder.generate``.
        """
        ids, mask = (feed[name].astype(np.int64) for name in ("input_ids", "attention_mask"))
        said = self._decoder.generate(ids, mask, **self._settings)
        return {SAID: said.tokens, LIKELIHOOD: said.log_likelihood, LENGTH: said.lengths}
