"""Calibration: real batches run through the float model, observers watch every quantizer's input, ranges come out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from calibration.candidates import Candidates, Ranges, find_candidates, merge_depths, set_ranges
from calibration.distributed import is_mine, merge_observers, raise_together
from calibration.equalize import Equalization, equalize_stream
from calibration.evidence import Evidence, examine
from calibration.observers import RangeObserver
from calibration.probe import Probe
from calibration.range_rows import RangeRow, list_ranges
from calibration.ranges import require_method
from calibration.search import search_ranges
from calibration.settings import BEST, CalibrationSettings
from qat.answers import read_token_labels
from qat.batches import drop_targets
from qat.chunking import whole_feed_forward
from qat.errors import DataError, QDQError
from qat.fake_quant import scale_from_amax
from qat.huggingface import mark_calibrated, quantization_config
from qat.layers import refresh_weight_ranges
from qat.quantizer import FakeQuantizer, calibrated_quantizers, disable_quantizers

_SEARCH_BATCH = 8
"""Few rows a batch, of like length: padding would cost as much as they do."""

_FIRST = 64
_EQUALIZE_ROWS = 32
"""Equalization looks at this many rows of so many first batches."""

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how much of it is done, and how much there is, None where nobody knows."""


def ignore_progress(phase: str, done: int, total: int | None) -> None:
    """Nothing."""


Batch = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What calibration read and found.

    Attributes:
        constant: the quantizers that met a single magnitude everywhere, zero for instance.
        candidates: the ranges of every method that was asked for.
        evidence: what passed through the quantizers, and how those ranges fit it.
        equalization: what was done to the residual stream; None where it was not asked for.
    """

    settings: CalibrationSettings
    batches: int
    rows: int
    tokens: int
    ranges: tuple[RangeRow, ...]
    constant: tuple[str, ...]
    candidates: Candidates
    evidence: Evidence
    equalization: Equalization | None = None

    @property
    def found(self) -> tuple[RangeRow, ...]:
        """The ranges that came from data."""
        return tuple(row for row in self.ranges if row.source == "calibrated")


def calibrate(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    settings: CalibrationSettings | None = None,
    progress: Progress = ignore_progress,
) -> Calibration:
    """What was found; ``model`` then holds a range in every quantizer.

    Args:
        model: a wrapped model; it runs in float while it is watched.
        batches: keyword arguments of ``model.forward``; labels and positions to find are left out, but for labels of
            single tokens, which tell ``best`` whose answers count. Where several processes calibrate together, each is
            given all of them and runs its share. Padding, where ``attention_mask`` is 0, enters no range.
        settings: the method and its parameters.
        progress: called after each batch, and after each layer at each depth whose ranges are searched.

    Raises:
        CheckpointError: the model is not wrapped, or some quantizer saw nothing.
        DataError: no batches, or one with nothing but padding.
        RangeError: activations that are not finite; names the layer and the batch.
        RecipeError: an unknown method.
    """
    settings = settings or CalibrationSettings()
    quantization_config(model)
    require_method(settings.method)
    progress("equalize", 0, None)
    equalization, batches = _equalize_first(model, batches) if settings.equalize else (None, batches)
    observer = observe_batches(model, batches, progress=progress)
    candidates: dict[str, Ranges] = dict(find_candidates(observer.histograms, settings))
    if settings.chosen == BEST:
        rows = observer.probe.choose(settings.search_rows, batch_size=_SEARCH_BATCH)
        with evaluating(model), whole_feed_forward(model):
            candidates[BEST] = search_ranges(
                model, rows, observer.histograms, settings, progress=partial(progress, "search")
            )
    if settings.depths == "merged":
        candidates = {method: merge_depths(ranges) for method, ranges in candidates.items()}
    set_ranges(model, candidates[settings.chosen])
    refresh_weight_ranges(model)
    mark_calibrated(model)
    return Calibration(
        settings=settings,
        batches=observer.batches,
        rows=observer.rows,
        tokens=observer.tokens,
        ranges=tuple(list_ranges(model)),
        constant=tuple(
            name
            for name, found in observer.histograms.items()
            if any(len(histogram.points()[0]) == 1 for histogram in found)
        ),
        candidates=candidates,
        equalization=equalization,
        evidence=_examine_all(model, observer, candidates),
    )


def _examine_all(model: nn.Module, observer: RangeObserver, candidates: Candidates) -> Evidence:
    quantizers = dict(calibrated_quantizers(model))
    return {
        name: [
            examine(
                histogram.points(),
                histogram.largest,
                observer.channels[name][depth].read(histogram.largest),
                _with_scales([ranges[name][depth] for ranges in candidates.values()], quantizers[name]),
            )
            for depth, histogram in enumerate(found)
        ]
        for name, found in observer.histograms.items()
    }


def _with_scales(ranges: Sequence[float], quantizer: FakeQuantizer) -> list[tuple[float, float]]:
    stored = torch.tensor(ranges)  # in FP32, as the quantizer has them
    return list(zip(stored.tolist(), scale_from_amax(stored, quantizer.spec.scale_type).tolist(), strict=True))


def _equalize_first(model: PreTrainedModel, batches: Iterable[Batch]) -> tuple[Equalization | None, Iterable[Batch]]:
    """What some rows of the first batches say of the residual stream, and all batches again."""
    iterator = iter(batches)
    first = list(islice(iterator, _FIRST))
    probe = Probe()
    for number, batch in enumerate(first, start=1):
        probe.add(_keep_what_counts(batch), number)
    rows = probe.choose(_EQUALIZE_ROWS, batch_size=_SEARCH_BATCH)
    with evaluating(model), whole_feed_forward(model):
        done = equalize_stream(model, rows) if rows else None
    return done, chain(first, iterator)


def observe_batches(
    model: PreTrainedModel, batches: Iterable[Batch], *, progress: Progress = ignore_progress
) -> RangeObserver:
    """What every quantizer of the float model met in those batches; one pass, in memory that does not grow with it.

    Raises:
        CheckpointError: some quantizer saw nothing.
        DataError: no batches, or one with nothing but padding.
        RangeError: activations that are not finite; names the layer and the batch.
    """
    observer = RangeObserver(model)
    with (
        torch.no_grad(),
        evaluating(model),
        whole_feed_forward(model),
        disable_quantizers(model),
        observer.watching(model),
    ):
        raise_together(_run_share(model, batches, observer, progress))
    merge_observers(observer)
    if observer.batches == 0:
        raise DataError("no calibration batches were given: at least one is needed")
    observer.require_data()
    return observer


def _run_share(
    model: PreTrainedModel, batches: Iterable[Batch], observer: RangeObserver, progress: Progress
) -> QDQError | None:
    try:
        for number, batch in enumerate(batches, start=1):
            if not is_mine(number):
                continue
            observer.begin(_keep_what_counts(batch), number)
            model(**drop_targets(batch))
            observer.finish(number)
            progress("observe", number, None)
    except QDQError as error:
        return error
    return None


def _keep_what_counts(batch: Batch) -> Batch:
    """What a model infers from, and which tokens' answers count where labels say it."""
    return drop_targets(batch) | read_token_labels(batch)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside the block ``model`` is in evaluation mode; afterwards every module is in the mode it was."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
