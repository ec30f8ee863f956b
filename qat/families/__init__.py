"""The model families, one file each; importing this package registers them.

A new family is one file here: its quantized classes, a ``plan_layer``, a ``register_family``.
"""

from qat.families import albert, bert, convbert, squeezebert
from qat.families.base import Family, find_family, in_encoder_layer, list_families

__all__ = [
    "Family",
    "albert",
    "bert",
    "convbert",
    "find_family",
    "in_encoder_layer",
    "list_families",
    "squeezebert",
]
