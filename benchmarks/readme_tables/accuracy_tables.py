"""What journeys and calibration methods come to."""

from benchmarks.readme_tables.markdown import draw_rows
from benchmarks.readme_tables.registry import Result, Results, readme_table

_JOURNEYS = {
    "ALBERT sample (`make demo`), 120 steps": "journey-albert-sample_epyc-2core-avx2",
    "ALBERT, 6 shared layers, 200 steps": "journey-albert_epyc-2core",
    "BERT, 6 layers (MiniLM), 200 steps": "journey-minilm_epyc-2core",
    "ConvBERT, 4 layers, 200 steps": "journey-convbert_epyc-2core",
    "SqueezeBERT, 4 layers, 200 steps": "journey-squeezebert_epyc-2core",
    "MiniLM from bad ranges (99th percentile), 300 steps at 3e-5, learned ranges": (
        "journey-minilm-bad-ranges_epyc-2core"
    ),
}
_STAGES = ("ptq", "qat", "onnx")

_METHODS = {
    "MiniLM": "methods-minilm_epyc-2core",
    "ALBERT": "methods-albert_epyc-2core",
    "ConvBERT": "methods-convbert_epyc-2core",
    "SqueezeBERT": "methods-squeezebert_epyc-2core",
    "ALBERT hard": "methods-albert-hard_epyc-2core",
    "ConvBERT hard": "methods-convbert-hard_epyc-2core",
    "SqueezeBERT hard": "methods-squeezebert-hard_epyc-2core",
}
_OTHERS = (("linear", "channel"), ("lean", "tensor"), ("qdqbert", "channel"))
_METHOD_ORDER = ("max", "percentile", "mse", "entropy", "best", "best, not equalized", "best, depths merged")


@readme_table("journeys")
def draw_journeys(results: Results) -> str:
    """The ladder of every checkpoint, in percent, in brackets its share of FP32."""
    head = (
        *("checkpoint", "FP32", "calibrated", "fine-tuned", "exported graph, FP16 rest"),
        "same answer, torch and graph",
    )
    return draw_rows(head, [_climb(label, results.read(name)["accuracy"]) for label, name in _JOURNEYS.items()])


def _climb(label: str, accuracy: Result) -> list[str]:
    fp32, agreement = accuracy["fp32"], accuracy.get("agreement")
    rungs = (
        "" if (value := accuracy.get(stage)) is None else f"{100 * value:.2f} ({100 * value / fp32:.1f} %)"
        for stage in _STAGES
    )
    return [label, f"{100 * fp32:.2f}", *rungs, "" if agreement is None else f"{100 * agreement:.2f} %"]


@readme_table("methods")
def draw_methods(results: Results) -> str:
    """Every method of the ``tensorrt`` placement, checkpoint by checkpoint, in percent."""
    found = [_by_method(results.read(name)) for name in _METHODS.values()]
    rows = [["FP32", "", *(each["float", "-"] for each in found)]]
    for weights in ("tensor", "channel"):
        for method in _METHOD_ORDER:
            cells = [each.get((f"tensorrt/{weights}", method), "") for each in found]
            rows.append([f"per {weights}", method, *cells])
    return draw_rows(("weights", "method", *_METHODS), rows)


@readme_table("method-recipes")
def draw_recipes(results: Results) -> str:
    """The default method beside the plain maximum in the other placements, checkpoint by checkpoint, in percent."""
    found = [_by_method(results.read(name)) for name in _METHODS.values()]
    rows = [
        [f"`{recipe}`", f"per {weights}", method, *(each[f"{recipe}/{weights}", method] for each in found)]
        for recipe, weights in _OTHERS
        for method in ("max", "best")
    ]
    return draw_rows(("recipe", "weights", "method", *_METHODS), rows)


def _by_method(result: Result) -> dict[tuple[str, str], str]:
    return {(row["placement"], row["method"]): f"{row['accuracy']:.2f}" for row in result["rows"]}
