"""The ranges a model holds, as rows that name their place in it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from qat.fake_quant import scale_from_amax
from qat.quantizer import named_quantizers
from qat.spec import RangeSource


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeRow:
    """One range of a model: of a shared layer, that of one depth; of a weight by channel, the largest.

    >>> row = RangeRow(name="bert.encoder.layer.3.ffn_quantizer", source="calibrated", depth=0, amax=2.54, scale=0.02)
    >>> row.layer, row.role
    (3, 'ffn')
    """

    name: str
    source: RangeSource
    depth: int
    amax: float
    scale: float

    @property
    def layer(self) -> int:
        """The layer it is reached at: of a shared layer, the depth."""
        return int(self._places()[-2]) + self.depth

    @property
    def role(self) -> str:
        """Its path inside the layer, without the word quantizer."""
        return self._places()[-1].removesuffix("_quantizer")

    def _places(self) -> list[str]:
        return re.split(r"\.(\d+)\.", self.name)


def list_ranges(model: nn.Module) -> Iterator[RangeRow]:
    """Every range of a model: activations one row a depth, weights their largest channel."""
    for name, quantizer in named_quantizers(model):
        ranges = quantizer.amax.tolist()
        scales = scale_from_amax(quantizer.amax, quantizer.spec.scale_type).tolist()
        if quantizer.axis is not None:
            ranges, scales = [max(ranges)], [max(scales)]
        for depth, (amax, scale) in enumerate(zip(ranges, scales, strict=True)):
            yield RangeRow(name=name, source=quantizer.spec.range_source, depth=depth, amax=amax, scale=scale)
