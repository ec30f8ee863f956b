"""What engines hold, how fast runtimes are, and what a training step costs."""

import numpy as np

from benchmarks.readme_tables.markdown import draw_rows
from benchmarks.readme_tables.registry import Result, Results, readme_table

_CHECKPOINTS = {
    "MiniLM": "bert-minilm-supersense",
    "ALBERT": "albert-supersense",
    "ConvBERT": "convbert-supersense",
    "SqueezeBERT": "squeezebert-supersense",
}
_DEFAULT = ("tensorrt", "per_tensor", "fp16")
_PLACEMENTS = {
    "FP32": ("float", "-", "fp32"),
    "FP16": ("float", "-", "fp16"),
    "`linear`, per tensor": ("linear", "per_tensor", "fp16"),
    "`linear`, per channel": ("linear", "per_channel", "fp16"),
    "`tensorrt`, per tensor": _DEFAULT,
    "`tensorrt`, per channel": ("tensorrt", "per_channel", "fp16"),
    "`lean`, per tensor": ("lean", "per_tensor", "fp16"),
}

_RUNTIMES = {
    "ONNX Runtime, its dynamic quantizer": "ONNX Runtime dynamic",
    "OpenVINO, float": "OpenVINO float",
    "NNCF `transformer` on OpenVINO": "nncf-transformer on OpenVINO",
    "NNCF `linear` on OpenVINO": "nncf-linear on OpenVINO",
    "qdq `linear` on ONNX Runtime": "qdq linear on ONNX Runtime",
    "qdq `tensorrt` on ONNX Runtime": "qdq tensorrt on ONNX Runtime",
    "qdq `linear` on OpenVINO": "qdq linear on OpenVINO",
    "qdq `tensorrt` on OpenVINO": "qdq tensorrt on OpenVINO",
}

_ANSWERING = {
    "torch": "torch FP32",
    "ONNX Runtime, float": "ONNX Runtime FP32",
    "ONNX Runtime, its dynamic quantizer": "ONNX Runtime dynamic",
    "OpenVINO, float": "OpenVINO float",
    "NNCF `linear` on OpenVINO": "nncf-linear on OpenVINO",
    "NNCF `transformer` on OpenVINO": "nncf-transformer-bf16 on OpenVINO",
    "NNCF's defaults on OpenVINO": "nncf-default on OpenVINO",
    "qdq `linear` on ONNX Runtime": "qdq linear on ONNX Runtime",
    "qdq `tensorrt` on ONNX Runtime": "qdq tensorrt on ONNX Runtime",
    "qdq `linear` on OpenVINO": "qdq linear on OpenVINO",
    "qdq `tensorrt` on OpenVINO": "qdq tensorrt on OpenVINO",
}

_STEPS = {
    "`tensorrt`": ("full", "float"),
    "`linear`": ("linear", "float"),
    "`linear`, a scale a channel": ("linear_channel", "float"),
    "`tensorrt` without the compiled kernel": ("composed", "float"),
    "ModelOpt 0.47, GEMMs alone, a scale a channel": ("modelopt", "modelopt_float"),
}


@readme_table("plans")
def draw_plans(results: Results) -> str:
    """Kernels and activation megabytes of every placement, the default one in bold."""
    found = {
        (row["checkpoint"], row["placement"], row["weights"], row["rest"]): row
        for row in results.read("plans_epyc-2core")["rows"]
    }
    rows = []
    for label, placement in _PLACEMENTS.items():
        cells = [_describe_plan(found[checkpoint, *placement]) for checkpoint in _CHECKPOINTS.values()]
        rows.append([f"**{cell}**" if placement == _DEFAULT else cell for cell in (label, *cells)])
    lean = _PLACEMENTS["`lean`, per tensor"]
    bytes_a_layer = [
        f"{found[checkpoint, *_DEFAULT]['layer_bytes']:.1f} / {found[checkpoint, *lean]['layer_bytes']:.1f}"
        for checkpoint in _CHECKPOINTS.values()
    ]
    rows.append(["bytes a token, hidden unit and layer, `tensorrt` / `lean`", *bytes_a_layer])
    return draw_rows(("", *_CHECKPOINTS), rows)


def _describe_plan(row: Result) -> str:
    share = "" if row["share"] == 1 else f" ({row['share']:.3f})"
    return f"{row['kernels']}/{row['kernels_fixed']} {row['activation_mb']:.1f}{share}"


@readme_table("latency")
def draw_latency(results: Results) -> str:
    """Times faster than the baseline, with half the quartile range."""
    result = results.read("latency-minilm_epyc-2core")
    ratios = {(each["name"], each["shape"]): each for each in result["ratios"]}
    shapes = list(dict.fromkeys(each["shape"] for each in result["ratios"]))
    rows = []
    for label, name in _RUNTIMES.items():
        facts = result["contestants"][name]
        cells = [_describe_ratio(ratios[name, shape]) for shape in shapes]
        rows.append([label, _name_rest(facts), str(facts["int8_kernels"]), *cells])
    return draw_rows(("", "rest", "INT8 kernels", *(shape.replace("x", "×") for shape in shapes)), rows)


def _name_rest(contestant: Result) -> str:
    return str(contestant["precision"]).removeprefix("int8+").upper()


def _describe_ratio(each: Result) -> str:
    return f"{each['ratio']:.2f} ± {(each['high'] - each['low']) / 2:.2f}"


@readme_table("throughput")
def draw_throughput(results: Results) -> str:
    """Texts a second in both orders of rows, times the first contestant, and what batches of like length give."""
    result = results.read("throughput-minilm_epyc-2core")
    passes = {(each["name"], each["order"]): each for each in result["passes"]}
    rows = []
    for label, name in _ANSWERING.items():
        alike, random = passes[name, "bucketed"], passes[name, "random"]
        fast, slow = (f"{each['texts_per_s']:,.0f}" for each in (alike, random))
        ratio = f"{alike['ratio']:.2f} ± {alike['spread']:.2f}"
        rest = _name_rest(result["contestants"][name])
        rows.append([label, rest, fast, ratio, slow, f"{alike['bucketing']:.2f}"])
    return draw_rows(("", "rest", "texts/s", "times torch", "random batches", "like lengths give"), rows)


@readme_table("qat-step")
def draw_steps(results: Results) -> str:
    """A training step beside a float one: time as the median of paired ratios, peaks of memory."""
    result = results.read("qat-step-minilm_epyc-2core")
    rows = [
        [
            label,
            _pair_times(result["samples_ms"][name], result["samples_ms"][base]),
            *(_figure(result.get(f"{kind}_{name}")) for kind in ("memory", "resident")),
        ]
        for label, (name, base) in _STEPS.items()
    ]
    return draw_rows(("", "time", "memory in use", "resident"), rows)


def _pair_times(times: list[float], base: list[float]) -> str:
    low, middle, high = np.percentile(np.array(times) / np.array(base), [25, 50, 75])
    return f"{middle:.3f} ± {(high - low) / 2:.3f}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


@readme_table("weight-bits")
def draw_weight_bits(results: Results) -> str:
    """How alike runtimes and fake quantization answer, in percent of the rows, and the accuracy of both."""
    rows = results.read("weight-bits-minilm_epyc-2core-avx2")["rows"]
    runtimes = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    found = {(row["recipe"], row["bits"], row["runtime"]): row for row in rows}
    lines = []
    for recipe, bits in dict.fromkeys((row["recipe"], row["bits"]) for row in rows):
        cells = [found[recipe, bits, name] for name in runtimes]
        each = [
            text
            for row in cells
            for text in (f"{row['agreement']:.1f}", f"{row['moved']:.0f}", f"{row['accuracy']:.2f}")
        ]
        lines.append([f"`{recipe}`", f"{bits} bits", f"{cells[0]['torch_accuracy']:.2f}", *each])
    head = [text for title in runtimes.values() for text in (f"{title}: same answer %", "moved %", "accuracy")]
    return draw_rows(("recipe", "weights", "accuracy in torch", *head), lines)
