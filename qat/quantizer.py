"""The fake quantizer of one tensor: a specification, a range, and nothing else."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from qat.errors import RangeError
from qat.fake_quant import fake_quantize, fake_quantize_within, scale_from_amax
from qat.sharding import gather_whole
from qat.spec import INT8_MAX, SMALLEST_SCALE, PerChannel, QuantSpec


class Unquantized(nn.Module):
    """A slot the recipe leaves in float: the tensor itself comes out."""

    idle = True

    def forward(self, x: Tensor) -> Tensor:
        """``x``, untouched."""
        return x


class FakeQuantizer(nn.Module):
    """Rounds a tensor to INT8 steps of its range; refuses to run without one.

    The range is the buffer ``amax``: one FP32 value for each channel (weights per channel), each depth (activations of
    a shared layer), or a single one. NaN means that no range has been set. While it is learned it is a parameter of
    the same name, so that files, resuming and optimizers need to know nothing of it.

    Attributes:
        spec: how the tensor is quantized.
        name: the quantizer's path in its model, for messages.
        enabled: whether it rounds; switched by ``disable_quantizers``.
        depth: which pass over a shared layer is running; set by that layer from its own argument.
    """

    amax: Tensor

    def __init__(self, spec: QuantSpec, *, ranges: int, name: str) -> None:
        super().__init__()
        self.spec = spec
        self.name = name
        self.enabled = True
        self.depth = 0
        self.register_buffer("amax", torch.empty(ranges, dtype=torch.float32))
        self.has_range = False
        self._scales: tuple[Tensor | None, int, tuple[Tensor, ...]] = (None, 0, ())
        self.clear_range()

    @property
    def axis(self) -> int | None:
        """The channel axis, or None where one scale serves the tensor."""
        return self.spec.granularity.axis if isinstance(self.spec.granularity, PerChannel) else None

    @property
    def idle(self) -> bool:
        """Whether passing a tensor through does nothing: it is off, and no hook watches or replaces what passes."""
        return not (self.enabled or self.watched)

    @property
    def watched(self) -> bool:
        """Whether a hook sees or replaces what passes."""
        return bool(self._forward_pre_hooks or self._forward_hooks)

    def set_range(self, amax: Tensor) -> None:
        """Stores ``amax``, one value for each channel or depth.

        Raises:
            RangeError: a shape that does not fit, or a value that is negative or not finite.
        """
        if amax.shape != self.amax.shape:
            given, expected = tuple(amax.shape), tuple(self.amax.shape)
            raise RangeError(f"{self.name}: a range of shape {given} given, {expected} expected")
        if not bool(torch.isfinite(amax).all()) or bool((amax < 0).any()):
            raise RangeError(f"{self.name}: amax must be finite and not negative, {amax.tolist()} given")
        with torch.no_grad():
            self.amax.copy_(amax)
        self.has_range = True

    def clear_range(self) -> None:
        """Forgets the range; one that is known beforehand is 1 again."""
        with torch.no_grad():
            self.amax.fill_(1.0 if self.spec.range_source == "constant" else float("nan"))
        self.has_range = self.spec.range_source == "constant"

    def refresh_state(self) -> None:
        """Makes ``has_range`` say what the buffer holds; called whenever a buffer was loaded."""
        self.has_range = bool(torch.isfinite(gather_whole(self.amax)).all())

    def learn_range(self) -> None:
        """Makes the range a parameter.

        Raises:
            RangeError: none has been set.
        """
        self._require_range()
        amax = self._buffers.pop("amax")
        self.amax = nn.Parameter(cast(Tensor, amax))

    def freeze_range(self) -> None:
        """Makes a learned range a buffer again; one that fell below the smallest scale is stored as that."""
        amax = gather_whole(cast(Tensor, self._parameters.pop("amax")).detach())
        self.register_buffer("amax", amax.clamp(min=SMALLEST_SCALE * INT8_MAX))

    def scale(self) -> Tensor:
        """The FP32 scale in use: a vector over channels, or the scalar of the running depth."""
        if self.axis is not None:
            return scale_from_amax(self.amax, self.spec.scale_type)
        if torch.compiler.is_compiling() or self.amax.requires_grad or self.amax.is_inference():
            return scale_from_amax(self.amax[self.depth], self.spec.scale_type)
        amax, version, scales = self._scales
        if amax is not self.amax or version != self.amax._version:  # torch counts every change of a tensor in place
            with torch.inference_mode(False):  # what is made in it could not be trained with later
                scales = scale_from_amax(self.amax, self.spec.scale_type).unbind()
            self._scales = self.amax, self.amax._version, scales
        return scales[self.depth]

    def _learned_scale(self, x: Tensor) -> Tensor:
        """The same scale, through which the gradient reaches the range: straight through the rounding of the scale.

        The gradient is divided by ``sqrt(127 n)``, n the number of values of one row (LSQ, arXiv 1902.08153, section
        2.2), which keeps it as large as that of a weight, and the same however the rows are batched.
        """
        exact = self.amax[self.depth] / (INT8_MAX * math.sqrt(INT8_MAX * x[0].numel()))
        return self.scale().detach() + (exact - exact.detach())

    def forward(self, x: Tensor, amax: Tensor | None = None) -> Tensor:
        """``x`` rounded to INT8 steps.

        Args:
            x: the tensor.
            amax: replaces the stored range where the owner knows a fresher one, which covers all of ``x``.

        Raises:
            RangeError: no range has been set.
        """
        if not self.enabled:
            return x
        if amax is not None:
            return fake_quantize_within(x, scale_from_amax(amax, self.spec.scale_type), self.axis)
        self._require_range()
        scale = self._learned_scale(x) if self.amax.requires_grad else self.scale()
        return fake_quantize(x, scale, self.axis)

    def _require_range(self) -> None:
        if not self.has_range:
            raise RangeError(
                f"quantizer '{self.name}' has no range: run qdq.calibrate (qdq calibrate) on this model first"
            )

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.refresh_state()

    def _apply(self, fn: Callable[..., Any], *rest: Any) -> Self:
        before = self.amax.detach()
        super()._apply(fn, *rest)  # type: ignore[no-untyped-call]
        if self.amax.dtype != torch.float32:  # a cast of the model would round its ranges
            self.amax.data = before.to(self.amax.device)
        return self

    def extra_repr(self) -> str:
        """What ``print(model)`` shows of it."""
        return f"{self.spec.granularity}, {self.spec.range_source}, ranges={len(self.amax)}"


Slot = FakeQuantizer | Unquantized


def named_quantizers(model: nn.Module) -> Iterator[tuple[str, FakeQuantizer]]:
    """Every fake quantizer of a model with its path, in the model's own order."""
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantizer):
            yield name, module


def calibrated_quantizers(model: nn.Module) -> Iterator[tuple[str, FakeQuantizer]]:
    """The quantizers whose range comes from data, with their paths."""
    return ((name, each) for name, each in named_quantizers(model) if each.spec.range_source == "calibrated")


def quantizers_without_range(model: nn.Module) -> list[str]:
    """The paths of the enabled quantizers that still lack a range; of a shared layer, with the depth."""
    missing = []
    for name, quantizer in named_quantizers(model):
        if quantizer.has_range or not quantizer.enabled or quantizer.spec.range_source == "weight":
            continue
        absent = [i for i, value in enumerate(quantizer.amax.tolist()) if value != value]
        depths = f" (depth {', '.join(map(str, absent))})" if len(quantizer.amax) > 1 else ""
        missing.append(name + depths)
    return missing


@contextmanager
def disable_quantizers(model: nn.Module) -> Iterator[None]:
    """Inside the block the model computes in float; afterwards every quantizer is as it was."""
    before = [(quantizer, quantizer.enabled) for _, quantizer in named_quantizers(model)]
    for quantizer, _ in before:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer, enabled in before:
            quantizer.enabled = enabled
