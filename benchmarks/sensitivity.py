"""What a sensitivity is shown with: the price of a group in the engine, a picture, JSON."""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure
from transformers import PreTrainedModel

from calibration.sensitivity import FloatChoice, QuantizerGroup, Sensitivity, SensitivityReport
from export.audit.build_audit import audit_built
from export.engine_build import build_engine
from export.engine_spec import EngineSpec, parse_shapes
from export.exported import Lowering, trace_model, write_exported
from export.targets import find_target
from qat.errors import BuildError
from qat.families import in_encoder_layer
from qat.quantizer import Unquantized

_LEAST_MB = 1e-3
"""A group that costs the plan nothing still costs this much, so that harm can be divided by it."""


class PlannedBytes:
    """What keeping a group in float adds to the engine: activation megabytes of the RTX plan at 8 rows of 128 tokens.

    Layers are alike, so one build serves the same group of every layer.

    Raises:
        BuildError: TensorRT for RTX is not installed.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._known: dict[str, float] = {}
        self._whole = self._plan(())

    def __call__(self, group: QuantizerGroup) -> float:
        """Megabytes more than with everything quantized, at least a thousandth."""
        kind = re.sub(r"\.\d+\b", ".*", group.name)
        if kind not in self._known:
            self._known[kind] = max(self._plan(group.quantizers) - self._whole, _LEAST_MB)
        return self._known[kind]

    def _plan(self, left_out: Sequence[str]) -> float:
        model = copy.deepcopy(self._model)
        for path in left_out:
            owner, _, slot = path.rpartition(".")
            setattr(model.get_submodule(owner), slot, Unquantized())
        target = find_target("rtx")
        tokens = min(128, int(model.config.max_position_embeddings))
        spec = EngineSpec(builder="rtx", shapes=parse_shapes(f"8x{tokens}"), hardware=("sm_89",))
        with TemporaryDirectory() as folder:
            lowering = Lowering(target, target.default_precision)
            exported = write_exported(
                trace_model(model), model, Path(folder) / "onnx", lowering=lowering, tokenizer=None
            )
            found = audit_built(build_engine(exported.onnx_path, spec), exported.onnx_path, in_encoder=in_encoder_layer)
        if found.activation_mb is None:
            raise BuildError(f"the engine's layer table is not available ({found.reason}): drop --max-drop")
        return found.activation_mb


def describe_sensitivity(report: SensitivityReport, choice: FloatChoice | None) -> dict[str, Any]:
    """JSON values of what was measured and chosen."""
    found: dict[str, Any] = {
        "float_metric": report.float_metric,
        "quantized_metric": report.quantized_metric,
        "quantized_error": report.quantized_error,
        "groups": [{"group": row.group.name, "harm": row.harm, "metric": row.metric} for row in report.rows],
    }
    if choice is not None:
        found["keep_float"] = [group.name for group in choice.groups]
        found["metric"] = choice.metric
        found["reached"] = choice.reached
    return found


def draw_harm(rows: Sequence[Sensitivity], most: int = 20) -> Figure:
    """Bars of the most harmful groups, the worst at the top; harm is a share of the logits' variance."""
    shown = list(reversed(rows[:most]))
    figure = Figure(figsize=(7, 0.9 + 0.24 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh([row.group.name for row in shown], [row.harm for row in shown], color="#4269d0")
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_xlabel("squared logit error it causes, as a share of their variance")
    axes.tick_params(axis="y", labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
