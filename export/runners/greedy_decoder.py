"""Greedy decoding with a decoder's two graphs: a prompt is read once, then token after token with what was kept."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from export.decoder_graphs import PAST, PRESENT
from export.runners.base import Arrays, Runner
from qat.errors import DataError

Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Said:
    """What a decoder said after a batch of prompts.

    Attributes:
        tokens: ``(batch, new tokens)``; behind a row's last one, padding.
        log_likelihood: of each token, as the model saw it, likewise; 0 behind the last one.
        lengths: how many tokens each row has, its end included, ``(batch,)``.
    """

    tokens: Tokens
    log_likelihood: NDArray[np.float32]
    lengths: Tokens


class GreedyDecoder:
    """Says the likeliest token, again and again; open it with ``with``.

    Args:
        prompt: runs whole rows, its keys and values answered.
        step: runs one token a row after them.
        longest: tokens that a row can have, prompt and answer together.

    Attributes:
        prompt: as given.
    """

    def __init__(self, prompt: Runner, step: Runner, *, longest: int) -> None:
        self.prompt, self._step = prompt, step
        self._longest = longest
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(self.prompt)
        self._open.enter_context(self._step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def generate(
        self, input_ids: Tokens, attention_mask: Tokens, *, max_new_tokens: int, ends: int | None = None, pad: int = 0
    ) -> Said:
        """What is said after each prompt.

        Args:
            input_ids: the prompts, ``(batch, tokens)``, padded behind.
            attention_mask: 1 where they have a token.
            max_new_tokens: said at most.
            ends: the token after which a row says nothing more; None lets every row go on.
            pad: what stands behind the end of a row.

        Raises:
            DataError: prompts that are empty, padded in front, or too long for what is to follow.
        """
        lengths = self._measure(attention_mask, max_new_tokens)
        answers = self.prompt.infer({"input_ids": input_ids, "attention_mask": attention_mask})
        logits = _read_logits(answers, lengths - 1)
        said: list[Tokens] = []
        likely: list[NDArray[np.float32]] = []
        going, mask = np.ones(len(lengths), np.bool_), attention_mask
        new = np.zeros_like(lengths)
        for number in range(max_new_tokens):
            token = logits.argmax(axis=-1)
            chosen = np.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
            likely.append(np.where(going, chosen - logsumexp(logits, axis=-1), 0.0))
            said.append(np.where(going, token, pad).astype(np.int64))
            new += going
            going = going & (token != ends)
            if number + 1 == max_new_tokens or not going.any():
                break
            mask = np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1)
            own = {"input_ids": said[-1][:, None], "attention_mask": mask, "position_ids": (lengths + number)[:, None]}
            answers = self._step.infer({**own, **_hand_on(answers)})
            logits = _read_logits(answers, np.zeros_like(lengths))
        return Said(np.stack(said, axis=1), np.stack(likely, axis=1), new)

    def _measure(self, mask: Tokens, following: int) -> Tokens:
        lengths: Tokens = mask.sum(axis=1)
        if not lengths.all():
            raise DataError("a prompt without a token was given: expected at least one, such as [CLS]")
        if (np.diff(mask, axis=1) > 0).any():
            raise DataError("prompts padded in front were given: expected padding behind (padding_side='right')")
        if int(lengths.max()) + following > self._longest + 1:  # the last token is said, not read
            raise DataError(
                f"{following} tokens after a prompt of {int(lengths.max())} were asked for, but the model takes "
                f"{self._longest}: ask for {max(0, self._longest + 1 - int(lengths.max()))} at most (--new-tokens), or "
                f"cut prompts to {max(1, self._longest + 1 - following)} (--max-length)"
            )
        return lengths


def _read_logits(answers: Mapping[str, NDArray[np.generic]], places: Tokens) -> NDArray[np.float32]:
    """Those of one token a row."""
    return answers["logits"][np.arange(len(places)), places].astype(np.float32, copy=False)


def _hand_on(answers: Mapping[str, NDArray[np.generic]]) -> Arrays:
    """What a graph kept, as the next one takes it."""
    return {PAST + name.removeprefix(PRESENT): x for name, x in answers.items() if name.startswith(PRESENT)}
