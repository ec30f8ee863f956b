"""What the products of a layer gave, remembered while one of its quantizers is tried with one range after the other."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from qat.layers import QuantizedLayer
from qat.quantizer import FakeQuantizer


class LayerMemory:
    """The products that a layer computes before it reaches a quantizer: whatever that one's range, they are the same.

    A run is one call of the layer on one set of arguments; it is known by its number.
    """

    def __init__(self) -> None:
        self._products: dict[tuple[int, str, int], Tensor] = {}
        self._run = 0
        self._reached = False
        self._counts: dict[str, int] = {}

    def begin(self, run: int) -> None:
        """The next products are those of run number ``run``."""
        self._run, self._reached = run, False
        self._counts.clear()

    @contextmanager
    def remembering(self, layer: nn.Module, quantizer: FakeQuantizer) -> Iterator[None]:
        """Inside the block the products of ``layer`` up to ``quantizer`` are computed once a run.

        What they are computed from, the range of ``quantizer`` apart, may not change in it.
        """
        products = [(name, each) for name, each in layer.named_modules() if isinstance(each, QuantizedLayer)]
        for name, product in products:
            vars(product)["forward"] = self._remember(name, product)
        hook = quantizer.register_forward_pre_hook(self._reach)
        try:
            yield
        finally:
            hook.remove()
            for _, product in products:
                del vars(product)["forward"]

    def _reach(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self._reached = True

    def _remember(self, name: str, product: QuantizedLayer) -> Any:
        compute = product.forward

        def forward(x: Tensor) -> Tensor:
            self._counts[name] = self._counts.get(name, 0) + 1
            key = (self._run, name, self._counts[name])
            if key in self._products:
                return self._products[key].clone()
            answer: Tensor = compute(x)
            if not self._reached:
                self._products[key] = answer.clone()  # ConvBERT adds a bias in place
            return answer

        return forward
