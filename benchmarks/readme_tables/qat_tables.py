"""What QAT recovers, beside the controls."""

from collections.abc import Callable, Mapping, Sequence

from benchmarks.readme_tables.markdown import draw_rows
from benchmarks.readme_tables.registry import Result, Results, readme_table

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
    "FP32 distilled from itself": "fp32 distilled",
    "calibrated": "ptq",
    "QAT with the labels": "qat",
    "learned ranges, with the labels": "lsq",
    "QAT distilled": "qat distilled",
    "learned ranges, distilled": "lsq distilled",
}


@readme_table("qat-starts")
def draw_starts(results: Results) -> str:
    """Checkpoints whose start QAT hardly moves: the headline metric of each stage, in percent."""
    tables = results.read("qat_epyc-2core")["tables"]
    found = [_by_column(tables[name]["differences"]) for name in _STARTS.values()]
    stages = {"FP32": "fp32", "calibrated": "ptq", "QAT distilled": "qat distilled"}
    rows = [[label, *(f"{cells[column]['value']:.2f}" for cells in found)] for label, column in stages.items()]
    return draw_rows(("", *_STARTS), rows)


@readme_table("qat-seeds")
def draw_seeds(results: Results) -> str:
    """MiniLM, in percent: the mean over the seeds, its share of FP32, its distance to FP32, and the graphs' mean."""
    tables = results.read("qat_epyc-2core")["tables"]
    columns = [*tables["minilm"]["columns"], *(each for each in tables["minilm-450"]["columns"] if each["steps"])]
    found = {(each["steps"], each["column"]): each for each in columns}
    rows = [
        [label, *_average(found[steps, column])]
        for steps in sorted({steps for steps, _ in found})
        for label, column in _COLUMNS.items()
        if (steps, column) in found
    ]
    return draw_rows(("", "steps", "seeds", "accuracy", "of FP32 %", "points", "its graph on ONNX Runtime"), rows)


def _average(column: Result) -> Sequence[str]:
    trained = column["steps"] > 0
    return (
        f"{column['steps']}" if trained else "",
        f"{column['seeds']}" if trained else "",
        f"{column['mean']:.2f}",
        f"{column['of_fp32']:.2f}",
        "" if column["column"] == "fp32" else f"{column['points']:+.2f} ± {column['error']:.2f}",
        "" if column["onnx"] is None else f"{column['onnx']:.2f}",
    )


@readme_table("embeddings")
def draw_embeddings(results: Results) -> str:
    """How often an embedding finds its sentence, in percent, and how near it is to the float model's."""
    found = results.read("embeddings-minilm_epyc-2core")["rows"]
    rows = [
        [each["name"], f"{each['recall_at_10']:.2f}", f"{100 * each['recall_at_10'] / found[0]['recall_at_10']:.1f}",
         f"{each['recall_at_1']:.2f}", f"{each['cosine']:.4f}"]
        for each in found
    ]  # fmt: skip
    return draw_rows(("", "recall@10", "of FP32 %", "recall@1", "mean cosine to FP32"), rows)


@readme_table("qat-tasks")
def draw_tasks(results: Results) -> str:
    """Tasks that read tokens, in percent: the score, its share of FP32, its distance to FP32, and the graph's score."""
    found = [_by_column(results.read(name)["cells"]) for name in _TASKS.values()]
    head = [name for task in _TASKS for name in (task, "of FP32 %", "points", "its graph")]
    return draw_rows(("", *head), _list_columns(found, _score, blank=4))


def _score(cells: Mapping[str, Result], column: str) -> Sequence[str]:
    fp32, cell = cells["fp32"], cells[column]
    share, paired = f"{100 * cell['value'] / fp32['value']:.2f}", f"{cell['points']:+.2f} ± {cell['error']:.2f}"
    graph = "" if cell["onnx"] is None else f"{cell['onnx']:.2f}"
    return (f"{cell['value']:.2f}", share, "" if cell is fp32 else paired, graph)


@readme_table("qat-fill-mask")
def draw_masked(results: Results) -> str:
    """Masked words: perplexity, the share of FP32's token probability in percent, and the graph's perplexity."""
    found = [_by_column(results.read(name)["cells"]) for name in _MASKED.values()]
    head = [name for weights in _MASKED for name in (weights, "of FP32 %", "its graph")]
    return draw_rows(("", *head), _list_columns(found, _perplexities, blank=3))


def _perplexities(cells: Mapping[str, Result], column: str) -> Sequence[str]:
    cell = cells[column]
    graph = "" if cell["onnx"] is None else f"{100 / cell['onnx']:.1f}"
    return (f"{cell['metrics']['perplexity']:.1f}", f"{100 * cell['value'] / cells['fp32']['value']:.2f}", graph)


def _list_columns(
    found: Sequence[Mapping[str, Result]], write: Callable[[Mapping[str, Result], str], Sequence[str]], *, blank: int
) -> list[list[str]]:
    """A row for every column that any of them has, with so many blank cells where one has not."""
    return [
        [label, *(text for cells in found for text in (write(cells, column) if column in cells else [""] * blank))]
        for label, column in _COLUMNS.items()
        if any(column in cells for cells in found)
    ]


def _by_column(cells: Sequence[Result]) -> Mapping[str, Result]:
    return {cell["column"]: cell for cell in cells}
