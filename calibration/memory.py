"""What the parts of a layer gave, remembered while one of its quantizers is tried with one range after the other."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from calibration.replay import list_inner_parts
from qat.layers import QuantizedLayer
from qat.quantizer import FakeQuantizer


class LayerMemory:
    """What a layer computes before it reaches a quantizer, products and whole parts: the same whatever its range.

    A run is one call of the layer on one set of arguments; it is known by its number.
    """

    def __init__(self) -> None:
        self._answers: dict[tuple[int, str, int], Any] = {}
        self._run = 0
        self._reached = False
        self._counts: dict[str, int] = {}

    def begin(self, run: int) -> None:
        """The next answers are those of run number ``run``."""
        self._run, self._reached = run, False
        self._counts.clear()

    @contextmanager
    def remembering(self, layer: nn.Module, quantizer: FakeQuantizer) -> Iterator[None]:
        """Inside the block what ``layer`` computes up to ``quantizer`` is computed once a run.

        What it is computed from, the range of ``quantizer`` apart, may not change in it.
        """
        products = {name: each for name, each in layer.named_modules() if isinstance(each, QuantizedLayer)}
        found = products | list_inner_parts(layer)
        for name, part in found.items():
            vars(part)["forward"] = self._remember(name, part)
        hook = quantizer.register_forward_pre_hook(self._reach)
        try:
            yield
        finally:
            hook.remove()
            for part in found.values():
                del vars(part)["forward"]

    def _reach(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self._reached = True

    def _remember(self, name: str, part: nn.Module) -> Any:
        compute = part.forward

        def forward(*given: Any, **named: Any) -> Any:
            self._counts[name] = self._counts.get(name, 0) + 1
            key = (self._run, name, self._counts[name])
            if key in self._answers:
                return _copy(self._answers[key])
            answer = compute(*given, **named)
            if not self._reached:
                self._answers[key] = _copy(answer)
            return answer

        return forward


def _copy(answer: Any) -> Any:
    """An answer of its own, which may be changed in place: ConvBERT adds a bias so."""
    if isinstance(answer, Tensor):
        return answer.clone()
    if isinstance(answer, tuple):
        return tuple(_copy(each) for each in answer)
    if isinstance(answer, dict):
        return {name: _copy(each) for name, each in answer.items()}
    return answer
