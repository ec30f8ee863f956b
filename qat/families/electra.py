"""ELECTRA: BERT's layers behind embeddings that may be narrower and are then projected."""

from transformers.models.electra.modeling_electra import (
    ElectraAttention,
    ElectraLayer,
    ElectraOutput,
    ElectraSelfAttention,
    ElectraSelfOutput,
)

from qat.families.base import register_family
from qat.families.bert import bert_family
from qat.families.blocks import QuantizesAttention, QuantizesFeedForward, QuantizesInput, QuantizesResidual


class QuantElectraSelfAttention(QuantizesAttention, ElectraSelfAttention):
    """Self-attention."""


class QuantElectraAttention(QuantizesInput, ElectraAttention):
    """The attention block."""


class QuantElectraSelfOutput(QuantizesResidual, ElectraSelfOutput):
    """The first residual add."""


class QuantElectraOutput(QuantizesResidual, ElectraOutput):
    """The second residual add."""


class QuantElectraLayer(QuantizesFeedForward, ElectraLayer):
    """The layer."""


ELECTRA = register_family(
    bert_family(
        "electra",
        ElectraLayer,
        {
            ElectraSelfAttention: QuantElectraSelfAttention,
            ElectraAttention: QuantElectraAttention,
            ElectraSelfOutput: QuantElectraSelfOutput,
            ElectraOutput: QuantElectraOutput,
            ElectraLayer: QuantElectraLayer,
        },
    )
)
