"""ConvBERT's grouped Linear with a quantized weight: groups of channels that are multiplied apart, in one batch."""

from typing import ClassVar, cast

from torch import Tensor, matmul, nn
from transformers.models.convbert.modeling_convbert import GroupedLinearLayer

from qat.layers import QuantizedLayer
from qat.residual_stream import scale_inputs, scale_outputs


class QuantGroupedLinear(QuantizedLayer, GroupedLinearLayer):
    """A GroupedLinearLayer whose input, weight, product and output have slots for a quantizer.

    The weight is ``(groups, in / groups, out / groups)``. Per channel it has one range for each column, which the
    columns of that place in the other groups share: an ONNX scale has one axis, and an output channel here lies on two.
    """

    channel_axis: ClassVar[int] = 2

    weight: nn.Parameter

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The layer on quantized input ``(batch, tokens, in)`` and weight; the bias stays float."""
        x = self.input_quantizer(hidden_states)
        groups = x.reshape(-1, self.num_groups, self.group_in_dim).transpose(0, 1)
        y = matmul(groups, self.quantized_weight()).transpose(0, 1).reshape(*x.shape[:-1], self.output_size)
        return cast(Tensor, self.output_quantizer(self.product_quantizer(y) + self.bias))


@scale_outputs.register
def _(layer: GroupedLinearLayer, factor: Tensor) -> None:
    layer.weight.mul_(factor.view(layer.num_groups, 1, layer.group_out_dim))
    layer.bias.mul_(factor)


@scale_inputs.register
def _(layer: GroupedLinearLayer, factor: Tensor) -> None:
    layer.weight.mul_(factor.view(layer.num_groups, layer.group_in_dim, 1))
