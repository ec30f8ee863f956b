"""Greedy decoding with a decoder's two graphs: a prompt is read once, then token after token with what was kept."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from export.decoder_graphs import PAST, PRESENT, STEP_FILE
from export.exported import MODEL_FILE
from export.runners.base import Arrays, Runner
from export.runners.load import load_runner
from qat.checkpoint import read_config
from qat.errors import CheckpointError, DataError
from qat.families import longest_row

Tokens = NDArray[np.int64]


class GreedyDecoder:
    """Says the likeliest token, again and again; open it with ``with``.

    Args:
        prompt: runs whole rows, its keys and values answered.
        step: runs one token a row after them.
        longest: tokens that a row can have, prompt and answer together.
    """

    def __init__(self, prompt: Runner, step: Runner, *, longest: int) -> None:
        self._prompt, self._step = prompt, step
        self._longest = longest
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(self._prompt)
        self._open.enter_context(self._step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def generate(
        self, input_ids: Tokens, attention_mask: Tokens, *, max_new_tokens: int, ends: int | None = None, pad: int = 0
    ) -> Tokens:
        """The tokens said, ``(batch, new tokens)``.

        Args:
            input_ids: the prompts, ``(batch, tokens)``, padded behind.
            attention_mask: 1 where they have a token.
            max_new_tokens: said at most.
            ends: the token after which a row says nothing more; None lets every row go on.
            pad: what rows that have ended say.

        Raises:
            DataError: prompts that are empty, padded in front, or too long for what is to follow.
        """
        lengths = self._measure(attention_mask, max_new_tokens)
        answers = self._prompt.infer({"input_ids": input_ids, "attention_mask": attention_mask})
        logits = answers["logits"][np.arange(len(lengths)), lengths - 1]
        said, going, mask = [], np.ones(len(lengths), np.bool_), attention_mask
        for number in range(max_new_tokens):
            token = np.where(going, logits.argmax(axis=-1), pad).astype(np.int64)
            said.append(token)
            going = going & (token != ends)
            if number + 1 == max_new_tokens or not going.any():
                break
            mask = np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1)
            own = {"input_ids": token[:, None], "attention_mask": mask, "position_ids": (lengths + number)[:, None]}
            answers = self._step.infer({**own, **_hand_on(answers)})
            logits = answers["logits"][:, -1]
        return np.stack(said, axis=1)

    def _measure(self, mask: Tokens, following: int) -> Tokens:
        lengths: Tokens = mask.sum(axis=1)
        if not lengths.all():
            raise DataError("a prompt without a token was given: expected at least one, such as [CLS]")
        if (np.diff(mask, axis=1) > 0).any():
            raise DataError("prompts padded in front were given: expected padding behind (padding_side='right')")
        if int(lengths.max()) + following > self._longest + 1:  # the last token is said, not read
            raise DataError(
                f"{following} tokens after a prompt of {int(lengths.max())} were asked for, but the model takes "
                f"{self._longest}: ask for {max(0, self._longest + 1 - int(lengths.max()))} at most"
            )
        return lengths


def _hand_on(answers: Mapping[str, NDArray[np.generic]]) -> Arrays:
    """What a graph kept, as the next one takes it."""
    return {PAST + name.removeprefix(PRESENT): x for name, x in answers.items() if name.startswith(PRESENT)}


def load_decoder(folder: Path | str, *, optimized: bool = True, threads: int = 0) -> GreedyDecoder:
    """The decoder of an exported folder, to be opened by ``with``.

    Args:
        folder: exported from a model that generates.
        optimized: as of ``load_runner``.
        threads: as of ``load_runner``.

    Raises:
        CheckpointError: no such folder, or one without a step.
        BuildError: as ``load_runner``.
    """
    folder = Path(folder)
    config = read_config(folder)
    if not (folder / STEP_FILE).is_file():
        raise CheckpointError(
            f"{folder} has no {STEP_FILE}, the graph that says one token more: give a folder that qdq export wrote of "
            "a checkpoint for text-generation"
        )
    prompt, step = (
        load_runner(folder / name, optimized=optimized, threads=threads, kept=True) for name in (MODEL_FILE, STEP_FILE)
    )
    return GreedyDecoder(prompt, step, longest=longest_row(config))
