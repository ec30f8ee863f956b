"""What a target is: a list of passes, and what it asks of the checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from export.passes.int8_embeddings import Order
from qat.errors import ExportError, suggest
from qat.recipe import WeightGranularity

Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One engine's lowering.

    Attributes:
        name: what ``--target`` calls it.
        passes: the passes, in order, that turn the traced graph into the engine's, for each precision it runs in.
        weights: the weight granularities it can take, for each precision.
        default_precision: what everything that is not INT8 runs in unless asked otherwise.
        embedding_order: how it takes INT8 embedding tables.
    """

    name: str
    passes: Mapping[Precision, Callable[[], Sequence[ir.passes.PassBase]]]
    weights: Mapping[Precision, tuple[WeightGranularity, ...]]
    default_precision: Precision
    embedding_order: Order = "dequantize_first"

    def choose_precision(self, wanted: str | None) -> Precision:
        """The precision asked for, or the target's own.

        Raises:
            ExportError: one the target does not run in.
        """
        precision = self.default_precision if wanted is None else wanted
        for known in self.passes:
            if known == precision:
                return known
        raise ExportError(
            f"precision '{precision}' is not one of target '{self.name}': {suggest(precision, self.passes)}"
        )

    def require_granularity(self, weights: WeightGranularity, precision: Precision) -> None:
        """Passes when the target runs weights of this granularity.

        Raises:
            ExportError: it does not; names the command that re-calibrates.
        """
        if weights not in self.weights[precision]:
            raise ExportError(
                f"the checkpoint has {weights.replace('_', '-')} weights, target '{self.name}' in {precision} needs "
                f"{' or '.join(self.weights[precision]).replace('_', '-')}: calibrate again with "
                f"qdq calibrate CHECKPOINT --target {self.name} --task ... --data ... --out ..."
            )


_TARGETS: dict[str, Target] = {}


def register_target(target: Target) -> Target:
    """Makes a target known under its name; a second one of that name is an error."""
    if target.name in _TARGETS:
        raise ValueError(f"target '{target.name}' is registered twice")
    _TARGETS[target.name] = target
    return target


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        ExportError: no such target.
    """
    if name not in _TARGETS:
        raise ExportError(f"target '{name}' is unknown: {suggest(name, _TARGETS)}")
    return _TARGETS[name]


def list_targets() -> list[str]:
    """The names of all targets."""
    return sorted(_TARGETS)
