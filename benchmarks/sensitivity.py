"""What a sensitivity is shown with: the plan of a placement, a picture, JSON."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir
from matplotlib.figure import Figure
from transformers import PreTrainedModel

from calibration.front import Placement, PlanCost, pareto_front
from calibration.sensitivity import (
    FloatChoice,
    QuantizerGroup,
    Sensitivity,
    SensitivityReport,
    float_quantizers,
)
from export.audit.build_audit import build_twin
from export.audit.engine_audit import sum_activations
from export.audit.layer_table import read_layer_table
from export.exported import MODEL_FILE, Lowering, lower_graph, trace_model
from export.passes.strip_quantization import StripQuantization
from export.targets import find_target
from qat.errors import BuildError
from qat.families import longest_row

_ROWS, _TOKENS = 8, 128
_HARDWARE = ("sm_89",)


class EnginePlans:
    """What placements cost the engine: activation megabytes and kernels of the RTX plan at 8 rows of 128 tokens.

    The model is traced once; a placement is the traced graph without the quantizers of its float groups. Layers are
    alike, so one build serves the same group of every layer.

    Raises:
        BuildError: TensorRT for RTX is not installed, or prints no layer table.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._graph = trace_model(model)
        self._tokens = min(_TOKENS, longest_row(model.config))
        self._known: dict[tuple[str, ...], PlanCost] = {}

    def __call__(self, groups: Sequence[QuantizerGroup]) -> PlanCost:
        """The cost with these groups in float."""
        names = sorted(group.name for group in groups)
        key = (re.sub(r"\.\d+\b", ".*", names[0]),) if len(names) == 1 else tuple(names)
        if key not in self._known:
            self._known[key] = self._build(float_quantizers(groups))
        return self._known[key]

    def _build(self, left_out: frozenset[str]) -> PlanCost:
        graph, target = self._graph.clone(), find_target("rtx")
        StripQuantization(left_out)(graph)
        lowered = lower_graph(graph, Lowering(target, target.default_precision))
        with TemporaryDirectory() as folder:
            path = Path(folder) / MODEL_FILE
            ir.save(lowered, path)
            twin = build_twin(path, hardware=_HARDWARE, fixed=(_ROWS, self._tokens))
        table = read_layer_table(twin.layer_table)
        kernels = [layer for layer in table.layers if layer.is_kernel]
        megabytes = sum_activations(table.layers)
        if megabytes is None:
            raise BuildError(f"the engine's layer table is not available ({table.reason}): drop --max-drop and --front")
        return PlanCost(megabytes=megabytes, kernels=len(kernels))


def describe_sensitivity(
    report: SensitivityReport, choice: FloatChoice | None, prices: Mapping[str, PlanCost]
) -> dict[str, Any]:
    """JSON values of what was measured and chosen, and of the prices by group where the engine was asked."""
    found: dict[str, Any] = {
        "metric_name": report.metric_name,
        "float_metric": report.float_metric,
        "quantized_metric": report.quantized_metric,
        "quantized_error": report.quantized_error,
        "groups": [
            {"group": row.group.name, "harm": row.harm, "metric": row.metric, **_describe(prices.get(row.group.name))}
            for row in report.rows
        ],
    }
    if choice is not None:
        found["keep_float"] = [group.name for group in choice.groups]
        found["metric"] = choice.metric
        found["reached"] = choice.reached
    return found


def _describe(price: PlanCost | None) -> dict[str, Any]:
    return {} if price is None else {"activation_mb": price.megabytes, "kernels": price.kernels}


def describe_front(placements: Sequence[Placement]) -> list[dict[str, Any]]:
    """JSON values of placements, and whether each is on their Pareto front."""
    front = pareto_front(placements)
    return [
        {
            "float_groups": [group.name for group in each.groups],
            "error": each.error,
            "metric": each.metric,
            "activation_mb": each.cost.megabytes,
            "kernels": each.cost.kernels,
            "on_front": each in front,
        }
        for each in placements
    ]


def describe_prices(plans: EnginePlans, report: SensitivityReport) -> dict[str, PlanCost]:
    """By group: the megabytes and kernels that keeping it in float adds to the plan with everything quantized."""
    whole = plans(())
    costs = {row.group.name: plans((row.group,)) for row in report.rows}
    return {
        name: PlanCost(megabytes=each.megabytes - whole.megabytes, kernels=each.kernels - whole.kernels)
        for name, each in costs.items()
    }


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
