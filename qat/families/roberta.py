"""RoBERTa: BERT's layers; its positions are counted from the padding's number on, so that many are no token's."""

from transformers.models.roberta.modeling_roberta import (
    RobertaAttention,
    RobertaLayer,
    RobertaOutput,
    RobertaSelfAttention,
    RobertaSelfOutput,
)

from qat.families.base import register_family
from qat.families.bert import bert_family
from qat.families.blocks import QuantizesAttention, QuantizesFeedForward, QuantizesInput, QuantizesResidual


class QuantRobertaSelfAttention(QuantizesAttention, RobertaSelfAttention):
    """Self-attention."""


class QuantRobertaAttention(QuantizesInput, RobertaAttention):
    """The attention block."""


class QuantRobertaSelfOutput(QuantizesResidual, RobertaSelfOutput):
    """The first residual add."""


class QuantRobertaOutput(QuantizesResidual, RobertaOutput):
    """The second residual add."""


class QuantRobertaLayer(QuantizesFeedForward, RobertaLayer):
    """The layer."""


ROBERTA = register_family(
    bert_family(
        "roberta",
        RobertaLayer,
        {
            RobertaSelfAttention: QuantRobertaSelfAttention,
            RobertaAttention: QuantRobertaAttention,
            RobertaSelfOutput: QuantRobertaSelfOutput,
            RobertaOutput: QuantRobertaOutput,
            RobertaLayer: QuantRobertaLayer,
        },
        longest=lambda config: int(config.max_position_embeddings - config.pad_token_id - 1),
    )
)
