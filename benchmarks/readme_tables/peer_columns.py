"""Column by column: ours, and the best that any of the other quantizers comes to."""

from collections.abc import Iterator, Sequence

from benchmarks.peers.costs import pair_times
from benchmarks.peers.roster import OURS, OWN
from benchmarks.readme_tables.markdown import draw_rows
from benchmarks.readme_tables.registry import Result, Results, readme_table

_CHECKPOINTS = {
    "MiniLM": "peers-minilm_epyc-2core-avx2",
    "ALBERT": "peers-albert_epyc-2core-avx2",
    "ConvBERT": "peers-convbert_epyc-2core-avx2",
    "SqueezeBERT": "peers-squeezebert_epyc-2core-avx2",
}
_SHIPPED = {
    "as shipped, %: qdq": ("qdq", "default/tensor best"),
    "ModelOpt": ("modelopt", "INT8_DEFAULT_CFG"),
    "ONNX Runtime, static": ("onnxruntime", "static"),
    "NNCF": ("nncf", "default"),
    "torchao": ("torchao", "quantize_ dynamic"),
}
_TITLES = {
    "modelopt": "ModelOpt",
    "modelopt-onnx": "ModelOpt",
    "onnxruntime": "ONNX Runtime",
    "nncf": "NNCF",
    "torchao": "torchao",
    "qdq": "",
    "qdq-onnxruntime": "ONNX Runtime",
    "qdq-openvino": "OpenVINO",
    "qdq-rtx": "",
}
_SHAPES = ("1x32", "1x128", "8x128", "32x128")
_MISSING = "none"


@readme_table("peer-columns")
def draw_peer_columns(results: Results) -> str:
    """A column a checkpoint, ours above the best of the peers' quantized rows, whatever they quantize."""
    columns = [list(_measure(results.read(name))) for name in _CHECKPOINTS.values()]
    labels = [label for label, _ in columns[0]]
    rows = [[label, *(column[place][1] for column in columns)] for place, label in enumerate(labels)]
    return draw_rows(("", *_CHECKPOINTS), rows)


def _measure(result: Result) -> Iterator[tuple[str, str]]:
    rows = [row for row in result["rows"] if not row["error"]]
    by_key = {(row["peer"], row["recipe"]): row for row in rows}
    yield "FP32, %", _percent(by_key, ("qdq", "float"))
    for label, key in _SHIPPED.items():
        yield label, _percent(by_key, key)
    signs = [0 if not each["clear"] else 1 if each["points"] > 0 else -1 for each in result["compared"]]
    yield "matched rows ahead / level / behind", " / ".join(str(signs.count(sign)) for sign in (1, 0, -1))
    ours = [row for row in rows if row["peer"] in OWN and row["standing"] != "float"]
    theirs = [row for row in rows if row["peer"] not in OWN and row["standing"] != "float"]
    calibrated = [row for row in rows if row["peer"] == OURS.name and row["recipe"] == "linear/channel best"]
    yield "GEMMs alone, calibration, cpu s: `best`", _least(_calibrate(calibrated))
    yield "the quickest peer that calibrates", _least(_calibrate(theirs))
    steps = {each["name"]: f"{each['ratio']:.2f}" for each in (result["training"] or {"costs": ()})["costs"]}
    yield "a training step, by FP32's: qdq, everything", steps.get("full", _MISSING)
    yield "qdq, GEMMs alone", steps.get("linear", _MISSING)
    yield "ModelOpt, GEMMs alone", steps.get("modelopt", _MISSING)
    for shape in _SHAPES:
        yield f"{shape.replace('x', '×')} on a CPU, ms: qdq", _least(_time(ours, shape))
        yield "the fastest peer", _least(_time(theirs, shape))
    yield "graph for TensorRT, MB: qdq", _least(_weigh(ours))
    yield "the smallest of a peer's that build", _least(_weigh(theirs))
    yield "its plan, MB of activations (kernels): qdq", _least(_plan(ours))
    yield "the peer's that moves least", _least(_plan(theirs))


Found = tuple[float, str]


def _percent(rows: dict[tuple[str, str], Result], key: tuple[str, str]) -> str:
    return f"{100 * rows[key]['accuracy']:.2f}" if key in rows else _MISSING


def _least(found: Sequence[Found]) -> str:
    return min(found)[1] if found else _MISSING


def _calibrate(rows: Sequence[Result]) -> list[Found]:
    matched = [row for row in rows if row["placement"] == "linear" and row["standing"] == "matched"]
    return [_tell(row, row["facts"]["quantization"]["cpu_s"], "{:.1f}") for row in matched]


def _time(rows: Sequence[Result], shape: str) -> list[Found]:
    timed = [row for row in rows if row["costs"] and shape in row["costs"]["latency"]]
    return [_tell(row, pair_times(row["costs"]["latency"][shape]).milliseconds, "{:.1f}") for row in timed]


def _weigh(rows: Sequence[Result]) -> list[Found]:
    return [_tell(row, row["facts"]["inside"]["file_bytes"] / 1e6, "{:.1f}") for row in _planned(rows)]


def _plan(rows: Sequence[Result]) -> list[Found]:
    plans = [(row, row["costs"]["plan"]) for row in _planned(rows)]
    return [_tell(row, plan["activation_mb"], f"{{:.1f}} ({plan['kernels']})") for row, plan in plans]


def _planned(rows: Sequence[Result]) -> list[Result]:
    return [row for row in rows if row["costs"] and row["costs"]["plan"]]


def _tell(row: Result, value: float, form: str) -> Found:
    return value, f"{form.format(value)} {_TITLES[row['peer']]}".strip()
