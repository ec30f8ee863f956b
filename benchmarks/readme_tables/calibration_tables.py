"""What calibration costs, beside other tools."""

from benchmarks.readme_tables.markdown import draw_rows
from benchmarks.readme_tables.registry import Result, Results, readme_table

_MACHINES = {
    "AVX2 alone, idle": "calibration-minilm_epyc-2core-avx2",
    "AVX512-VNNI, beside other work": "calibration-minilm_epyc-2core",
}
_BEST = {
    "`best`, GEMMs alone, per channel": "qdq: linear/channel best",
    "`best`, `tensorrt` without preactivations, per channel": "qdq: tensorrt/channel best",
    "`best`, `tensorrt` without preactivations, per tensor": "qdq: tensorrt/tensor best",
    "`best`, `tensorrt` as shipped, per channel": "qdq: default/channel best",
    "`best`, `tensorrt` as shipped, per tensor": "qdq: default/tensor best",
    "NNCF `linear`, GEMMs alone": "nncf: linear",
    "NNCF `transformer`, GEMMs alone": "nncf: transformer",
}


@readme_table("calibration-cost")
def draw_costs(results: Results) -> str:
    """Processor seconds from float to quantized, a column a machine."""
    found = [results.read(name) for name in _MACHINES.values()]
    rows = [[label, *(f"{each['best'][key]:.1f}" for each in found)] for label, key in _BEST.items()]
    for position, method in enumerate(found[0]["modelopt"]):
        cells = [_describe_method(each["modelopt"][position]) for each in found]
        rows.append([f"`{method['method']}`: qdq, ModelOpt", *cells])
    rows.append(["observing everything, by bare passes", *(f"{each['ratio_all']:.2f}" for each in found)])
    rows.append(["choosing by all four methods", *(f"{each['search_s']:.2f}" for each in found)])
    return draw_rows(("", *_MACHINES), rows)


def _describe_method(method: Result) -> str:
    return f"{method['ours']:.1f}, {method['theirs']:.1f} ({method['times']:.1f} times)"
