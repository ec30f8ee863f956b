"""What journeys, calibration methods and QAT come to."""

from collections.abc import Mapping, Sequence

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
_METHOD_ORDER = ("max", "percentile", "mse", "entropy", "best", "best, not equalized", "best, depths merged")

_STARTS = {
    "ALBERT": "albert",
    "ConvBERT": "convbert",
    "SqueezeBERT": "squeezebert",
    "ALBERT hard": "albert-hard",
    "ConvBERT hard": "convbert-hard",
    "SqueezeBERT hard": "squeezebert-hard",
    "`similarity`": "similarity",
}

_TASKS = {"`span`, F1": "qat-span_epyc-2core", "`target`, entity F1": "qat-target_epyc-2core"}
_MASKED = {"per tensor": "qat-fill-mask_epyc-2core-avx2", "per channel": "qat-fill-mask-channel_epyc-2core-avx2"}
_COLUMNS = {
    "FP32": "fp32",
    "FP32 trained on with the labels": "fp32 trained on",
    "calibrated": "ptq",
    "QAT with the labels": "qat",
    "QAT distilled": "qat distilled",
}


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


def _by_method(result: Result) -> dict[tuple[str, str], str]:
    return {(row["placement"], row["method"]): f"{row['accuracy']:.2f}" for row in result["rows"]}


@readme_table("qat-starts")
def draw_starts(results: Results) -> str:
    """Checkpoints whose start QAT hardly moves: the headline metric of each stage, in percent."""
    tables = results.read("qat_epyc-2core")["tables"]
    stages = {"FP32": "fp32", "calibrated": "ptq", "QAT distilled": "qat distilled"}
    rows = [
        [label, *(f"{_find(tables[name]['differences'], column)['value']:.2f}" for name in _STARTS.values())]
        for label, column in stages.items()
    ]
    return draw_rows(("", *_STARTS), rows)


@readme_table("qat-tasks")
def draw_tasks(results: Results) -> str:
    """Tasks that read tokens, in percent: the score, its share of FP32, its distance to FP32, and the graph's score."""
    found = [results.read(name)["cells"] for name in _TASKS.values()]
    head = [name for task in _TASKS for name in (task, "of FP32 %", "points", "its graph")]
    rows = [[label, *(text for cells in found for text in _score(cells, column))] for label, column in _COLUMNS.items()]
    return draw_rows(("", *head), rows)


def _score(cells: Sequence[Result], column: str) -> Sequence[str]:
    fp32, cell = _find(cells, "fp32"), _find(cells, column)
    share, paired = f"{100 * cell['value'] / fp32['value']:.2f}", f"{cell['points']:+.2f} ± {cell['error']:.2f}"
    graph = "" if cell["onnx"] is None else f"{cell['onnx']:.2f}"
    return (f"{cell['value']:.2f}", share, "" if cell is fp32 else paired, graph)


@readme_table("qat-fill-mask")
def draw_masked(results: Results) -> str:
    """Masked words: perplexity, the share of FP32's token probability in percent, and the graph's perplexity."""
    found = [{cell["column"]: cell for cell in results.read(name)["cells"]} for name in _MASKED.values()]
    head = [name for weights in _MASKED for name in (weights, "of FP32 %", "its graph")]
    rows = [
        [label, *(text for cells in found for text in _perplexities(cells, column))]
        for label, column in _COLUMNS.items()
        if any(column in cells for cells in found)
    ]
    return draw_rows(("", *head), rows)


def _perplexities(cells: Mapping[str, Result], column: str) -> Sequence[str]:
    if column not in cells:  # a control that both weights share
        return ("", "", "")
    cell = cells[column]
    graph = "" if cell["onnx"] is None else f"{100 / cell['onnx']:.1f}"
    return (f"{cell['metrics']['perplexity']:.1f}", f"{100 * cell['value'] / cells['fp32']['value']:.2f}", graph)


def _find(cells: Sequence[Result], column: str) -> Result:
    return next(cell for cell in cells if cell["column"] == column)
