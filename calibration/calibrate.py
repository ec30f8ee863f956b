"""Calibration: real batches run through the float model, observers watch every quantizer's input, ranges come out."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from calibration.observers import OBSERVERS, CalibrationSettings, Observer, real_tokens
from qat.chunking import whole_feed_forward
from qat.errors import CheckpointError, DataError, RangeError
from qat.huggingface import mark_calibrated, quantization_config
from qat.layers import refresh_weight_ranges
from qat.quantizer import FakeQuantizer, disable_quantizers, named_quantizers

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeRow:
    """One range of a calibrated model: of a shared layer, that of one depth."""

    name: str
    source: str
    depth: int
    amax: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What calibration read and found."""

    settings: CalibrationSettings
    batches: int
    rows: int
    tokens: int
    ranges: tuple[RangeRow, ...]


@dataclass(slots=True)
class _Watch:
    """What the running batch is, for the hooks: its number and which tokens are real; and which ranges got data."""

    batch: int = 0
    mask: Tensor | None = None
    seen: set[tuple[FakeQuantizer, int]] = field(default_factory=set)


def calibrate(
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    settings: CalibrationSettings | None = None,
    progress: Progress = lambda batch: None,
) -> Calibration:
    """What was found; ``model`` then holds a range in every quantizer.

    Args:
        model: a wrapped model; it runs in float while it is watched.
        batches: keyword arguments of ``model.forward``; ``labels`` are left out. Padding, where ``attention_mask`` is
            0, enters no range.
        settings: the method and its parameters.
        progress: called after each batch with its number, counted from 1.

    Raises:
        CheckpointError: the model is not wrapped, or some quantizer saw nothing.
        DataError: no batches, or one with nothing but padding.
        RangeError: activations that are not finite; names the layer and the batch.
    """
    settings = settings or CalibrationSettings()
    quantization_config(model)
    watch = _Watch()
    observers: dict[FakeQuantizer, list[Observer]] = {}
    rows = tokens = 0
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_evaluating(model))
        stack.enter_context(whole_feed_forward(model))
        stack.enter_context(disable_quantizers(model))
        for _, quantizer in named_quantizers(model):
            if quantizer.spec.range_source == "calibrated":
                observers[quantizer] = [OBSERVERS[settings.method](settings) for _ in quantizer.amax]
                stack.callback(_observe(quantizer, observers[quantizer], watch).remove)
        for batch in batches:
            watch.batch += 1
            watch.mask = batch.get("attention_mask")
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            first = next(iter(inputs.values()))
            real = int(first.numel() if watch.mask is None else watch.mask.sum())
            if real == 0:
                raise DataError(f"batch {watch.batch} holds nothing but padding: remove its empty rows")
            rows, tokens = rows + len(first), tokens + real
            model(**inputs)
            progress(watch.batch)
    if watch.batch == 0:
        raise DataError("no calibration batches were given: at least one is needed")
    _require_data(observers, watch)
    for quantizer, found in observers.items():
        quantizer.set_range(torch.tensor([observer.amax() for observer in found]))
    refresh_weight_ranges(model)
    mark_calibrated(model)
    return Calibration(
        settings=settings, batches=watch.batch, rows=rows, tokens=tokens, ranges=tuple(list_ranges(model))
    )


def list_ranges(model: nn.Module) -> Iterator[RangeRow]:
    """Every range of a model: activations one row a depth, weights their largest channel."""
    for name, quantizer in named_quantizers(model):
        values = quantizer.amax.tolist()
        if quantizer.axis is not None:
            values = [max(values)]
        for depth, amax in enumerate(values):
            yield RangeRow(name=name, source=quantizer.spec.range_source, depth=depth, amax=amax)


def _observe(quantizer: FakeQuantizer, observers: list[Observer], watch: _Watch) -> Any:
    def watch_input(module: FakeQuantizer, arguments: tuple[Tensor, ...]) -> None:
        magnitudes = real_tokens(arguments[0], watch.mask, module.spec.token_axis)
        if not bool(torch.isfinite(magnitudes).all()):
            raise RangeError(
                f"activations at '{module.name}' are not finite in batch {watch.batch}: look for NaN or infinite "
                "weights in this layer or before it, or for broken inputs in that batch"
            )
        observers[module.depth].update(magnitudes)
        watch.seen.add((module, module.depth))

    return quantizer.register_forward_pre_hook(watch_input)


def _require_data(observers: Mapping[FakeQuantizer, list[Observer]], watch: _Watch) -> None:
    unseen = [
        quantizer.name + (f" (depth {depth})" if len(found) > 1 else "")
        for quantizer, found in observers.items()
        for depth in range(len(found))
        if (quantizer, depth) not in watch.seen
    ]
    if unseen:
        raise CheckpointError(
            f"{len(unseen)} quantizers saw no data: {', '.join(unseen[:3])}{', ...' if len(unseen) > 3 else ''}; "
            "give calibration batches that reach every layer"
        )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
