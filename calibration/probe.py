"""A few of the calibration rows, kept for the second look that ``best`` takes: evenly spread, in bounded memory."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from qat.tasks.base import IGNORED_LABEL

Row = dict[str, Tensor]
_MOST_BATCHES = 64
_ENCODER = "encoder_"
"""How inputs of another model's tokens begin."""


class Probe:
    """Whole batches at a regular distance, which doubles whenever they become too many.

    Which ones are kept depends on their numbers alone, so that the probes of several processes merge into the one a
    single process would have kept.
    """

    def __init__(self) -> None:
        self.batches: dict[int, Mapping[str, Tensor]] = {}
        self._distance = 1

    def add(self, batch: Mapping[str, Tensor], number: int) -> None:
        """Keeps the batch, counted from 1, if its turn has come."""
        self.batches[number] = batch
        self._thin()

    def merge(self, batches: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Takes in what another process kept."""
        self.batches.update(batches)
        self._thin()

    def choose(self, rows: int, *, batch_size: int) -> list[Row]:
        """``rows`` of the kept rows, evenly spread, in padded batches of like length."""
        kept = [row for number in sorted(self.batches) for row in split_rows(self.batches[number])]
        if not kept:
            return []
        places = torch.linspace(0, len(kept) - 1, min(rows, len(kept))).round().long().tolist()
        groups: dict[tuple[torch.Size, ...], list[Row]] = {}
        for row in sorted((kept[place] for place in places), key=lambda row: row["attention_mask"].shape[-1]):
            groups.setdefault(_encoder_shapes(row), []).append(row)
        return [
            join_rows(group[start : start + batch_size])
            for group in groups.values()
            for start in range(0, len(group), batch_size)
        ]

    def _thin(self) -> None:
        while True:
            self.batches = {n: batch for n, batch in self.batches.items() if (n - 1) % self._distance == 0}
            if len(self.batches) <= _MOST_BATCHES:
                return
            self._distance *= 2


def split_rows(batch: Mapping[str, Tensor]) -> Iterable[Row]:
    """The rows of a batch that hold a real token, each cut to its last one; one that attends to other states is whole.

    >>> batch = {"input_ids": torch.tensor([[5, 6, 0], [7, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 0]] * 2)}
    >>> [row["input_ids"].tolist() for row in split_rows(batch)]
    [[[5, 6]], [[7, 0]]]
    """
    first = next(iter(batch.values()))
    mask = batch.get("attention_mask")
    if mask is None:
        tokens = first.shape[:-1] if first.is_floating_point() else first.shape  # embeddings have one axis more
        mask = torch.ones(tokens, dtype=torch.int64, device=first.device)
    for place in range(len(first)):
        own = mask[place : place + 1]
        if not bool(own.any()):
            continue
        length = int(own.reshape(-1, own.shape[-1]).any(dim=0).nonzero().max()) + 1
        if _encoder_shapes(batch):
            length = own.shape[-1]
        row = {name: x[place : place + 1] for name, x in batch.items()} | {"attention_mask": own}
        yield {name: x[..., :length] if _has_tokens(name, x, own) else x for name, x in row.items()}


def join_rows(rows: list[Row]) -> Row:
    """The rows as one batch, padded with zeros behind; what is not as long as the mask is joined as it is.

    Labels are padded with what counts nowhere. Rows with another model's states must have as many of them.
    """
    longest = max(row["attention_mask"].shape[-1] for row in rows)

    def pad(name: str, row: Row) -> Tensor:
        mask = row["attention_mask"]
        missing = longest - mask.shape[-1] if _has_tokens(name, row[name], mask) else 0
        return torch.nn.functional.pad(row[name], (0, missing), value=IGNORED_LABEL if name == "labels" else 0)

    return {name: torch.cat([pad(name, row) for row in rows]) for name in rows[0]}


def _encoder_shapes(batch: Mapping[str, Tensor]) -> tuple[torch.Size, ...]:
    """The shapes of what comes from another model, but for the batch."""
    return tuple(x.shape[1:] for name, x in batch.items() if name.startswith(_ENCODER))


def _has_tokens(name: str, x: Tensor, mask: Tensor) -> bool:
    """Whether an input has an entry for each of the model's own tokens."""
    return x.shape == mask.shape and not name.startswith(_ENCODER)
