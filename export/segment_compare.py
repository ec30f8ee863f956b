"""Tensor-by-tensor agreement of a runtime with its graph as written, in INT8 steps, each fed the same inputs.

The graph runs once, unoptimized, and gives what every QuantizeLinear reads and makes. Then each stretch between two
quantizers is cut out, and the runtime compiles and runs it alone on those numbers, with all the fusions it finds there:
an attention is one stretch, since runtimes compute it in one kernel, and one flipped tie does not spread.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx.utils import Extractor

from export.graph_file import read_graph
from export.layer_compare import TensorAgreement
from export.openvino_model import compile_graph
from export.passes.qdq_nodes import DEQUANTIZE, QUANTIZE
from qat.spec import INT8_MAX

Values = dict[str, NDArray[np.generic]]
Infer = Callable[[bytes, Values], NDArray[np.generic]]
"""The one output of an ONNX file's content, as a runtime computes it."""


def infer_openvino(content: bytes, feed: Values) -> NDArray[np.generic]:
    """OpenVINO's answer with its rest in FP32."""
    compiled = compile_graph(content, rest="f32", threads=1)
    return np.array(compiled(feed)[0])


def infer_onnxruntime(content: bytes, feed: Values) -> NDArray[np.generic]:
    """ONNX Runtime's answer, optimized."""
    return _run(content, feed, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)[0]


def compare_segments(
    onnx_path: Path | str, batch: Mapping[str, NDArray[np.int64]], infer: Infer
) -> tuple[TensorAgreement, ...]:
    """The agreement at every activation quantizer but that of attention's probabilities, in the graph's order.

    Args:
        onnx_path: a graph in FP32 whose weights are folded.
        batch: its inputs.
        infer: the runtime.

    Raises:
        ExportError: no readable ONNX file.
    """
    graph = _Graph(read_graph(Path(onnx_path), weights=True))
    values = graph.run(batch)
    return tuple(_compare(graph, pair, values, infer) for pair in graph.pairs if not pair.probabilities)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A QuantizeLinear with the first DequantizeLinear that reads it."""

    name: str
    source: str
    result: str
    scale: float
    probabilities: bool


class _Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.shape_inference.infer_shapes(model)
        self.makers = {name: node for node in self.model.graph.node for name in node.output}
        self.stored = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.pairs = tuple(self._list_pairs())
        self._ends = {pair.result: pair for pair in self.pairs}
        self._extractor = Extractor(self.model)

    def _list_pairs(self) -> Iterator[_Pair]:
        quantizers = {node.output[0]: node for node in self.model.graph.node if node.op_type == QUANTIZE}
        for node in self.model.graph.node:
            maker = quantizers.get(node.input[0]) if node.op_type == DEQUANTIZE else None
            if maker is not None:
                scale = onnx.numpy_helper.to_array(self.stored[maker.input[1]])
                softmax = self.makers[maker.input[0]].op_type == "Softmax"
                yield _Pair(maker.name, maker.input[0], node.output[0], float(scale.item()), softmax)

    def run(self, batch: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.generic]]:
        """What every quantizer reads, and what comes of it, by tensor."""
        whole = onnx.ModelProto()
        whole.CopyFrom(self.model)
        names = list(dict.fromkeys(name for pair in self.pairs for name in (pair.source, pair.result)))
        del whole.graph.output[:]
        whole.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
        feed: Values = {value.name: batch[value.name] for value in self.model.graph.input}
        plain = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return {**feed, **dict(zip(names, _run(whole.SerializeToString(), feed, plain), strict=True))}

    def cut(self, pair: _Pair) -> tuple[bytes, dict[str, str]]:
        """The stretch that ends with a pair, and what to feed each of its inputs: the tensor made by its quantizer."""
        feeds: dict[str, str] = {}
        waiting, seen = [pair.source], set[str]()
        while waiting:
            name = waiting.pop()
            before = self._ends.get(name)
            if before is not None and not before.probabilities:
                feeds[before.source] = name
            elif name not in self.makers and name not in self.stored and name:
                feeds[name] = name
            elif name in self.makers and name not in seen:
                waiting.extend(self.makers[name].input)
            seen.add(name)
        piece: onnx.ModelProto = self._extractor.extract_model(sorted(feeds), [pair.result])
        return piece.SerializeToString(), feeds


def _run(content: bytes, feed: Values, level: ort.GraphOptimizationLevel) -> Sequence[NDArray[np.generic]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    answers: Sequence[NDArray[np.generic]] = session.run(None, feed)
    return answers


def _compare(graph: _Graph, pair: _Pair, values: Mapping[str, NDArray[np.generic]], infer: Infer) -> TensorAgreement:
    content, feeds = graph.cut(pair)
    answer = infer(content, {name: values[source] for name, source in feeds.items()}).astype(np.float32)
    apart = np.abs(np.rint((answer - values[pair.result].astype(np.float32)) / pair.scale))
    steps = values[pair.source].astype(np.float32) / pair.scale
    distance = np.abs(steps - np.floor(steps) - 0.5)[apart > 0]
    return TensorAgreement(
        name=pair.name.removesuffix(f"/{QUANTIZE}"),
        values=apart.size,
        differing=int((apart > 0).sum()),
        largest_step=int(apart.max()),
        tie_distance=float(distance.max(initial=0)) / INT8_MAX,
    )
