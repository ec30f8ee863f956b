"""The model families, one file each; importing this package registers them.

A new family is one file here: its quantized classes, a ``plan_layer``, a ``register_family``.
"""

from qat.families import albert, bert, convbert, distilbert, electra, roberta, squeezebert
from qat.families.base import Family, find_family, in_encoder_layer, list_families, longest_row

__all__ = [
    "Family",
    "albert",
    "bert",
    "convbert",
    "distilbert",
    "electra",
    "find_family",
    "in_encoder_layer",
    "list_families",
    "longest_row",
    "roberta",
    "squeezebert",
]
