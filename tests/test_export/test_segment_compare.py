"""compare_segments: what a runtime makes of every stretch between quantizers, from the same inputs."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from export.exported import Lowering, lower_graph
from export.openvino_model import compile_graph, count_int8_kernels
from export.segment_compare import Infer, Values, compare_segments, infer_onnxruntime, infer_openvino
from export.targets import find_target
from tests.test_export.conftest import Trace
from tests.test_export.test_openvino import CASES, FULL
from tests.test_export.tiny_models import Case, Traced, make_batch
from tests.this_cpu import EXACT_RUNTIMES, HAS_AVX512
from tests.tolerances import TIE

BATCH = make_batch(6, 33, seed=4)
RUNTIMES: dict[str, Infer] = {"openvino": infer_openvino, "onnxruntime": infer_onnxruntime}


def save(traced: Traced, folder: Path, target: str) -> Path:
    path = folder / "model.onnx"
    ir.save(lower_graph(traced.graph, Lowering(find_target(target), "fp32")), path)
    return path


@pytest.mark.parametrize("target", EXACT_RUNTIMES)
@pytest.mark.parametrize("case", [FULL, *(pytest.param(each, marks=pytest.mark.long) for each in CASES[1:])], ids=str)
def test_runtimes_are_at_most_one_step_off_and_only_at_ties(
    case: Case, target: str, trace: Trace, tmp_path: Path
) -> None:
    path = save(trace(case), tmp_path, target)
    found = compare_segments(path, BATCH, RUNTIMES[target])
    pairs = [node.name for node in onnx.load(path).graph.node if node.op_type == "QuantizeLinear"]
    assert {each.name for each in found} == {
        name.removesuffix("/QuantizeLinear") for name in pairs if "probs_quantizer" not in name
    }
    assert sum(each.values for each in found) > len(found)
    assert max(each.largest_step for each in found) <= 1
    assert max(each.tie_distance for each in found) <= TIE.value


def test_the_attention_is_compared_as_the_one_kernel_it_is(trace: Trace, tmp_path: Path) -> None:
    kernels: dict[str, int] = {}

    def infer(content: bytes, feed: Values) -> NDArray[np.generic]:
        (output,) = onnx.load_from_string(content).graph.output
        kernels[output.name] = count_int8_kernels(compile_graph(content, rest="f32"))
        return infer_openvino(content, feed)

    found = compare_segments(save(trace(FULL), tmp_path, "openvino"), BATCH, infer)
    assert len(kernels) == len(found)
    assert sum(kernels.values()) == (6 if HAS_AVX512 else 7)  # its two products are two where it is split


def test_a_runtime_that_computes_something_else_is_found_out(trace: Trace, tmp_path: Path) -> None:
    path = save(trace(FULL), tmp_path, "onnxruntime")

    def infer(content: bytes, feed: Values) -> NDArray[np.generic]:
        wrong = onnx.load_from_string(content)
        for node in wrong.graph.node:
            if node.op_type == "Gelu":
                node.op_type = "Relu"
                del node.attribute[:]
        return infer_onnxruntime(wrong.SerializeToString(), feed)

    off = {each.name: each.largest_step for each in compare_segments(path, BATCH, infer)}
    assert [name for name, step in off.items() if step > 1] == ["bert.encoder.layer.0.output.dense.input_quantizer"]
