"""Calibration by several processes (``torchrun``): each runs its share of the batches, all end with the same counts.

Counts are whole numbers and peaks are maxima, so what comes out does not depend on how many processes there are.
"""

from collections.abc import Iterable

import torch
from torch import distributed

from calibration.channels import ChannelPeaks
from calibration.observers import RangeObserver
from qat.errors import QDQError
from qat.processes import processes, rank


def is_mine(number: int) -> bool:
    """Whether batch ``number``, counted from 1, is this process's to run."""
    return (number - 1) % processes() == rank()


def raise_together(error: QDQError | None) -> None:
    """Passes when no process met an error.

    Raises:
        QDQError: the error of the first process that met one, in all of them: nobody waits for somebody who left.
    """
    found: list[QDQError | None] = [error]
    if processes() > 1:
        found = [None] * processes()
        distributed.all_gather_object(found, error)
    for each in found:
        if each is not None:
            raise each


def follow_first(tensors: Iterable[torch.Tensor]) -> None:
    """Gives every process the values the first one has: what was measured may differ between machines."""
    if processes() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def merge_observers(observer: RangeObserver) -> None:
    """Makes ``observer`` what one process would have observed of all batches."""
    if processes() == 1:
        return
    histograms = [histogram for each in observer.histograms.values() for histogram in each]
    for histogram in histograms:
        histogram.to(torch.device("cpu"))
    counts, peaks = torch.stack([each.counts for each in histograms]), torch.stack([each.peak for each in histograms])
    seen = torch.tensor([observer.batches, observer.rows, observer.tokens])
    distributed.all_reduce(counts)
    distributed.all_reduce(peaks, op=distributed.ReduceOp.MAX)
    distributed.all_reduce(seen)
    for histogram, own, peak in zip(histograms, counts, peaks, strict=True):
        histogram.counts, histogram.peak = own, peak
    observer.batches, observer.rows, observer.tokens = seen.tolist()
    _merge_channels([each for found in observer.channels.values() for each in found])
    kept: list[dict[int, dict[str, torch.Tensor]]] = [{}] * processes()
    distributed.all_gather_object(kept, observer.probe.batches)
    for batches in kept:
        observer.probe.merge(batches)


def _merge_channels(own: list[ChannelPeaks]) -> None:
    found: list[list[ChannelPeaks]] = [[]] * processes()
    distributed.all_gather_object(found, own)  # a process without a batch does not know how many channels there are
    for others in found:
        for each, other in zip(own, others, strict=True):
            each.merge(other)
