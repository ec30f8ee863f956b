"""Every tolerance of the suite, each with its reason; a test never writes one of its own.

Exact comparison is the rule and needs no entry here: fake quantization against its oracles, saved against reloaded
checkpoints and quantizers-off against the float model are compared with ``==`` or ``torch.equal``.
"""

from typing import NamedTuple


class Tolerance(NamedTuple):
    """The largest difference a comparison accepts, and why it is not zero."""

    value: float
    reason: str
