"""``best``: for every quantizer the range that harms the model's answers least, measured on a few calibration rows.

The histograms say how far a range may fall. The part of the layer that holds the quantizer (its attention, its
feed-forward block, or all of it) is run again with one range after the other, its weights in float, and the change of
its answer is weighed by what it does to the model's output (``calibration.replay``). A plain squared error would be a
poor measure: a residual with outlier dimensions has most of it where the model does not look.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel

from calibration.candidates import find_candidates, set_ranges
from calibration.histogram import Histogram
from calibration.memory import LayerMemory
from calibration.ranges.percentile import read_percentile
from calibration.replay import Call, list_layers, list_parts, record_calls, run_up_to
from calibration.settings import ALL, CalibrationSettings
from qat.quantizer import FakeQuantizer, calibrated_quantizers, disable_quantizers

_LADDER = 2.0**-0.5
_FLOOR = 99.9
"""Ranges are tried in steps of this ratio, down to this percentile at least, and on as long as one of two helps."""

_PATIENCE = 2
_LOWEST = 2.0**-10


def search_ranges(
    model: PreTrainedModel,
    batches: Sequence[Mapping[str, Tensor]],
    histograms: Mapping[str, Sequence[Histogram]],
    settings: CalibrationSettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[float]]:
    """The best range of every quantizer and depth.

    Args:
        model: a wrapped model in evaluation mode; its ranges are overwritten.
        batches: a few calibration rows.
        histograms: of every range.
        settings: of those methods.
        progress: called after each layer at each depth with how many are done, and all of them.

    Within a layer a quantizer stays on once it has its range, so that what comes later makes up for it, and a residual
    and what is added to it come to be clipped alike. Where one of the histogram methods harms a
    layer less as a whole, its ranges are taken.
    """
    layers = list_layers(model)
    calls: dict[tuple[str, int], list[Call]] = {}
    for call in record_calls(model, batches, list_parts(model)):
        calls.setdefault((call.name, call.depth), []).append(call)
    starts = list(find_candidates(histograms, settings.model_copy(update={"method": ALL})).values())
    set_ranges(model, starts[0])
    active = {name for name, quantizer in calibrated_quantizers(model) if quantizer.enabled}
    whole = {place: made for place, made in calls.items() if place[0] in layers}
    with torch.no_grad(), disable_quantizers(model):
        for number, ((layer, depth), made) in enumerate(whole.items(), start=1):
            own = {name: each for name, each in calibrated_quantizers(model) if name.startswith(f"{layer}.")}
            turns: list[_Turn] = []
            for part, names in groupby(own, key=partial(find_part, layer=layer)):
                runs = calls.get((part, depth), made)
                if turns and runs is not made:
                    runs = run_up_to(runs, made)
                for name in names:
                    turn = _Turn(quantizer=own[name], depth=depth, histogram=histograms[name][depth], calls=runs)
                    turn.quantizer.enabled = True
                    turn.search()
                    turn.quantizer.enabled = name in active
                    turns.append(turn)
            if turns:
                _keep_best(turns, made, [[start[name][depth] for name in own] for start in starts])
            for turn in turns:
                turn.quantizer.enabled = False
            progress(number, len(whole))
    return {name: quantizer.amax.tolist() for name, quantizer in calibrated_quantizers(model)}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Turn:
    """One range to be found: of a quantizer at one depth, with the runs of its layer at that depth."""

    quantizer: FakeQuantizer
    depth: int
    histogram: Histogram
    calls: Sequence[Call]

    def set_range(self, amax: float) -> None:
        ranges = self.quantizer.amax.clone()
        ranges[self.depth] = amax
        self.quantizer.set_range(ranges)

    def search(self) -> None:
        largest = self.histogram.largest
        if largest == 0:
            return
        harms: dict[float, float] = {}
        memory = LayerMemory()

        def try_range(amax: float) -> float:
            self.set_range(amax)
            harms[amax] = add_harms(self.calls, min(harms.values(), default=math.inf), memory.begin)
            return harms[amax]

        with memory.remembering(self.calls[0].module, self.quantizer):
            descend_ladder(try_range, largest, read_percentile(self.histogram, _FLOOR))
            best = min(harms, key=harms.__getitem__)
            for near in (best * _LADDER**0.5, best / _LADDER**0.5):
                if near < largest:
                    try_range(near)
        self.set_range(min(harms, key=harms.__getitem__))


def find_part(quantizer: str, layer: str) -> str:
    """The path of what lies in a layer and holds that quantizer.

    >>> find_part("encoder.layer.0.attention.self.query_quantizer", "encoder.layer.0")
    'encoder.layer.0.attention'
    """
    inside = quantizer.removeprefix(f"{layer}.").partition(".")[0]
    return f"{layer}.{inside}"


def _keep_best(turns: Sequence[_Turn], calls: Sequence[Call], others: Sequence[Sequence[float]]) -> None:
    """Leaves the layer the ranges it has, or those among ``others`` that harm it less, all its quantizers on."""
    kept: Sequence[float] = [float(turn.quantizer.amax[turn.depth]) for turn in turns]
    least = math.inf
    for ranges in (kept, *others):
        _set_all(turns, ranges)
        harm = add_harms(calls, least)
        if harm < least:
            least, kept = harm, ranges
    _set_all(turns, kept)


def _set_all(turns: Sequence[_Turn], ranges: Sequence[float]) -> None:
    for turn, amax in zip(turns, ranges, strict=True):
        turn.set_range(amax)


def add_harms(calls: Sequence[Call], most: float, begin: Callable[[int], None] = lambda run: None) -> float:
    """The harm over all calls, or over the first few of them where that is more than ``most`` already.

    Args:
        calls: runs of one module.
        most: what is asked for is only whether there is less.
        begin: told the number of each run before it.
    """
    total = 0.0
    for run, call in enumerate(calls):
        begin(run)
        total += call.measure()
        if total > most:
            break
    return total


def descend_ladder(harm: Callable[[float], float], largest: float, floor: float) -> None:
    """Tries falling ranges from ``largest`` to ``floor``, and on until two in a row are no better than the best.

    >>> tried = []
    >>> descend_ladder(lambda amax: tried.append(round(amax, 2)) or abs(amax - 2.0), 8.0, 6.0)
    >>> tried
    [8.0, 5.66, 4.0, 2.83, 2.0, 1.41, 1.0]
    """
    best, waited, amax = math.inf, 0, largest
    while amax >= largest * _LOWEST and (waited < _PATIENCE or amax >= floor):
        found = harm(amax)
        waited = 0 if found < best else waited + 1
        best = min(best, found)
        amax *= _LADDER
