"""Equalization of the residual stream: its outlier channels in larger units, as far as that helps the quantized model.

How far is measured, not assumed: outlier channels that become small make the weights that read them large, so a few
limits are tried on a few rows, and the gentlest that moves the model's answers clearly less stays. The rewriting is
exact (``qat.residual_stream``).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from calibration.distributed import follow_first
from qat.answers import has_independent_labels, is_distribution, read_answers
from qat.batches import drop_targets
from qat.families import find_family
from qat.padding import RealTokens, find_real, real_tokens
from qat.quantizer import FakeQuantizer, calibrated_quantizers, disable_quantizers
from qat.residual_stream import StreamTensor, channel_axis, nearest_power, rescale_stream

_LIMITS = (16.0, 8.0, 4.0, 2.0)
"""How many times the median channel the largest may be."""

_WORTHWHILE = 0.8
"""The share to which a stronger rewriting must lower the harm: a few rows know no finer differences."""

_HOPELESS = 2.0
"""From this multiple of the least harm on, no stronger rewriting of the kind is tried."""

_TINY = torch.finfo(torch.float32).tiny

Batch = Mapping[str, Tensor]
Peaks = Mapping[str, Tensor]
"""By a module's path, the largest magnitude of each channel of its output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Equalization:
    """What was done to the residual stream.

    Attributes:
        limit: how many times the median channel the largest may now be; None where nothing was done.
        addends: whether what is added to the stream was held to it too.
        channels: how many channels of how many tensors changed units, summed.
        largest: the largest factor.
        before: the harm on the probe rows without it, in nats a row for logits.
        after: the harm with it.
    """

    limit: float | None
    addends: bool
    channels: int
    largest: float
    before: float
    after: float

    def describe(self) -> str:
        """One line that says it.

        >>> Equalization(limit=8.0, addends=False, channels=5, largest=2.0, before=0.0092, after=0.0067).describe()
        'residual stream: 5 outlier channels in units of their own, up to 2 times larger (0.0092 -> 0.0067 nats a row)'
        """
        if self.limit is None:
            return "residual stream: no outlier channels worth units of their own"
        return (
            f"residual stream: {self.channels} outlier channels in units of their own, up to {self.largest:g} times "
            f"larger ({self.before:.2g} -> {self.after:.2g} nats a row)"
        )


def equalize_stream(model: PreTrainedModel, batches: Sequence[Batch]) -> Equalization | None:
    """What was done to ``model``, in place; in float it computes the same bits as before.

    Args:
        model: a wrapped model in evaluation mode; its ranges are overwritten.
        batches: a few calibration rows; None, and nothing done, where they do not reach every layer or make
            activations that are not finite: the pass over all batches says so.
    """
    tensors = find_family(model.config.model_type).stream_tensors(model)
    with torch.no_grad():
        with disable_quantizers(model):
            peaks, reference = measure_peaks(model, tensors, batches)
        if peaks.keys() != {path for tensor in tensors for path in tensor.written} or not all(
            bool(peak.isfinite().all()) for peak in peaks.values()
        ):
            return None
        best: tuple[bool, float | None] = (False, None)
        chosen = tried = [torch.ones_like(peaks[tensor.writers[0]]) for tensor in tensors]
        for _, quantizer in calibrated_quantizers(model):
            quantizer.set_range(torch.ones_like(quantizer.amax))
        before = least = _measure_harm(model, batches, reference)
        for addends in (False, True):
            for limit in _LIMITS:
                factors = [find_factor(tensor, peaks, addends, limit) for tensor in tensors]
                if all(map(torch.equal, factors, tried)):
                    continue
                tried = factors
                with _rescaled(model, tensors, factors):
                    harm = _measure_harm(model, batches, reference)
                if harm < _WORTHWHILE * least:
                    best, chosen, least = (addends, limit), factors, harm
                elif harm > _HOPELESS * least:
                    break  # stronger still would be worse still
        follow_first(chosen)
        _rescale_all(model, tensors, chosen)
    return Equalization(
        addends=best[0],
        limit=best[1],
        channels=sum(int((factor > 1).sum()) for factor in chosen),
        largest=max(float(factor.max()) for factor in chosen),
        before=before,
        after=least,
    )


def describe_equalization(done: Equalization | None) -> dict[str, object] | None:
    """The values of a manifest or report, with the line that says them."""
    return None if done is None else {**asdict(done), "said": done.describe()}


def find_factor(tensor: StreamTensor, peaks: Peaks, addends: bool, limit: float) -> Tensor:  # noqa: FBT001
    """What one tensor's channels are divided by so that none is more than ``limit`` times the median one.

    Args:
        tensor: of the stream.
        peaks: of its writers and addends.
        addends: whether to hold what is added to it to the same limit.
        limit: powers of two keep it within a factor of the square root of two.

    >>> tensor = StreamTensor(writers=("norm",), readers=(), addends=("dense",), gains=())
    >>> peaks = {"norm": torch.tensor([2.0, 2.0, 64.0]), "dense": torch.tensor([0.5, 4.0, 0.5])}
    >>> find_factor(tensor, peaks, False, 4.0), find_factor(tensor, peaks, True, 4.0)
    (tensor([1., 1., 8.]), tensor([1., 2., 8.]))
    """
    excess = torch.ones_like(peaks[tensor.writers[0]])
    for path in (*tensor.writers, *(tensor.addends if addends else ())):
        excess = torch.maximum(excess, peaks[path] / peaks[path].median().clamp(min=_TINY))
    return nearest_power((excess / limit).clamp(min=1))


def measure_peaks(
    model: PreTrainedModel, tensors: Sequence[StreamTensor], batches: Sequence[Batch]
) -> tuple[Peaks, list[dict[str, Tensor]]]:
    """The largest magnitude of each channel of what every writer and addend puts out, real tokens only; the answers."""
    peaks: dict[str, Tensor] = {}
    real: list[Tensor | None] = [None]

    def watch(path: str, module: nn.Module) -> Any:
        axis = channel_axis(module)

        def note(layer: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
            found = real_tokens(answer.movedim(axis, -1), real[0], 1).abs().amax(dim=0)
            peaks[path] = torch.maximum(peaks.get(path, found), found)

        return module.register_forward_hook(note)

    paths = dict.fromkeys(path for tensor in tensors for path in tensor.written)
    hooks = [watch(path, model.get_submodule(path)) for path in paths]
    answers = []
    try:
        for batch in batches:
            real[0] = find_real(batch.get("attention_mask"))
            answers.append(_answer(model, batch))
    finally:
        for hook in hooks:
            hook.remove()
    return peaks, answers


def _answer(model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
    found = model(**drop_targets(batch))
    return read_answers(found, batch, independent=has_independent_labels(model.config))


def divergence(answer: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """How far a model's answers are from the reference's: KL of every field of logits, else the squared distance.

    Both are the answers that count (``qat.answers``).

    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> round(divergence({"logits": torch.zeros(1, 2)}, {"logits": logits}), 4)
    0.3278
    """
    total = 0.0
    for name, wanted in reference.items():
        found = answer[name]
        if is_distribution(name, wanted):
            logs, shares = found.log_softmax(dim=-1), wanted.log_softmax(dim=-1)
            total += float(functional.kl_div(logs, shares, log_target=True, reduction="sum"))
        else:
            total += float((found - wanted).square().sum())
    return total


def _measure_harm(model: PreTrainedModel, batches: Sequence[Batch], reference: Sequence[Mapping[str, Tensor]]) -> float:
    """The divergence a row, every range the largest magnitude of the batch: one pass finds and uses them."""
    real = [RealTokens()]

    def fit(module: FakeQuantizer, given: tuple[Tensor, ...]) -> None:
        module.amax[module.depth] = real[0].pick(given[0], module.spec).abs().max()

    hooks = [quantizer.register_forward_pre_hook(fit) for _, quantizer in calibrated_quantizers(model)]
    total = 0.0
    try:
        for batch, wanted in zip(batches, reference, strict=True):
            real[0] = RealTokens.of(batch)
            total += divergence(_answer(model, batch), wanted)
    finally:
        for hook in hooks:
            hook.remove()
    return total / sum(len(next(iter(batch.values()))) for batch in batches)


@contextmanager
def _rescaled(model: nn.Module, tensors: Sequence[StreamTensor], factors: Sequence[Tensor]) -> Iterator[None]:
    _rescale_all(model, tensors, factors)
    try:
        yield
    finally:
        _rescale_all(model, tensors, [1 / factor for factor in factors])


def _rescale_all(model: nn.Module, tensors: Sequence[StreamTensor], factors: Sequence[Tensor]) -> None:
    for tensor, factor in zip(tensors, factors, strict=True):
        rescale_stream(model, tensor, factor)
