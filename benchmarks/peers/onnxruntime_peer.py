"""ONNX Runtime's quantizer: dynamic, and static Q/DQ, run by ONNX Runtime on the CPU.

Recipes as its documentation describes them: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.job import Feed, Inside, Job
from benchmarks.peers.row import Peer, Row
from benchmarks.peers.worker import is_in_encoder_layer, serve

_INT8_PRODUCTS = frozenset({
    "QLinearMatMul", "MatMulIntegerToFloat", "QGemm", "DynamicQuantizeMatMul", "QLinearConv", "MatMulInteger",
    "ConvInteger",
})  # fmt: skip
_PRODUCTS = ["MatMul", "Gemm", "Conv"]
_PERCENTILE = 99.99

ROWS = (
    Row(
        recipe="static",
        standing="as shipped",
        placement="own",
        weights="per_tensor",
        note="quantize_static, min-max",
        costs=("plan",),
    ),
    Row(
        recipe="dynamic",
        standing="best",
        placement="own",
        weights="per_tensor",
        note="advised for transformers",
        costs=("latency",),
    ),
    Row(recipe="static MatMul max", standing="best", placement="own", note="MatMul alone, per channel"),
    Row(recipe="static MatMul percentile", standing="best", placement="own", note="the same, 99.99, padded alike"),
    Row(recipe="linear max", standing="matched", placement="linear", costs=("latency",)),
    Row(recipe="linear percentile", standing="matched", placement="linear", note="99.99, padded alike"),
    Row(
        recipe="full max",
        standing="matched",
        placement="tensorrt",
        note="range of probs measured, not fixed at 1",
        costs=("latency", "plan"),
    ),
    Row(recipe="full percentile", standing="matched", placement="tensorrt", note="99.99, padded alike"),
    Row(
        recipe="full signed max",
        standing="matched",
        placement="tensorrt",
        note="INT8 activations, as its TensorRT provider wants them",
        costs=("plan",),
    ),
)


class OnnxRuntimeModel:
    """The float graph in a session, then the quantized one."""

    def __init__(self, job: Job, folder: Path) -> None:
        if job.graph is None:
            raise RuntimeError("no float graph to start from: torch could not export the checkpoint")
        self._threads = job.threads
        self._float = job.graph
        self._folder = folder
        self.path = job.graph
        self._session = open_session(job.graph, threads=job.threads)

    def infer(self, feed: Feed) -> NDArray[np.float32]:
        """The logits of one batch."""
        names = [value.name for value in self._session.get_inputs()]
        (logits,) = self._session.run(["logits"], {name: feed[name] for name in names})
        return np.asarray(logits, dtype=np.float32)

    def quantize(self, recipe: str, batches: Iterable[Feed]) -> None:
        """Writes the quantized file and opens it."""
        self.path = self._folder / "quantized.onnx"
        kind, *rest = recipe.split()
        signed = "signed" in rest
        method = rest[-1] if rest else ""
        if kind == "dynamic":
            self._quantize_dynamic()
        elif kind == "static":
            self._quantize_as_documented(batches, method)
        else:
            self._quantize_matched(batches, method, attention=kind == "full", signed=signed)
        self._session = open_session(self.path, threads=self._threads)

    def describe(self) -> Inside:
        """What the session runs in INT8, read from the graph it optimized."""
        weights, activations = count_graph(self.path)
        return Inside(
            weights=weights,
            activations=activations,
            products=count_executed(self.path, self._folder),
            file_bytes=self.path.stat().st_size,
            counted="executes",
            graph=self.path.name,
        )

    def _quantize_dynamic(self) -> None:
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(self._prepare(), self.path)

    def _quantize_as_documented(self, batches: Iterable[Feed], method: str) -> None:
        """All defaults without a method; with one, MatMul alone and a range for each output channel."""
        from onnxruntime.quantization import quantize_static

        options: dict[str, Any] = {}
        if method:
            options = {**_choose_method(method), "op_types_to_quantize": ["MatMul"], "per_channel": True}
        quantize_static(self._prepare(), self.path, FeedReader(batches, method), **options)

    def _quantize_matched(self, batches: Iterable[Feed], method: str, *, attention: bool, signed: bool) -> None:
        """Symmetric inputs of the encoder's products, no outputs; the residual stays float without ``attention``.

        Activations are unsigned around zero point 128, the same steps, and what its kernels fuse best; a TensorRT takes
        signed ones alone.

        A Q/DQ pair of ONNX Runtime serves everybody who reads its tensor, the residual add included, as the full
        placement wants it. For the linear one the products get an Identity of the tensor to themselves.
        """
        import onnx
        from onnxruntime.quantization import QuantType, quantize_static

        model = onnx.load(self._float)
        constants = {tensor.name for tensor in model.graph.initializer}
        chosen = [
            node
            for node in model.graph.node
            if node.op_type in _PRODUCTS
            and is_in_encoder_layer(node.name)
            and (attention or node.input[1] in constants)
        ]
        if not attention:
            _separate_inputs(model.graph, chosen)
        source = self._folder / "matched.onnx"
        onnx.save(model, source)
        chosen_method = _choose_method(method)
        quantize_static(
            source,
            self.path,
            FeedReader(batches, method),
            op_types_to_quantize=_PRODUCTS,
            nodes_to_quantize=[node.name for node in chosen],
            per_channel=True,
            activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=chosen_method["calibrate_method"],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": _PRODUCTS,
                "QuantizeBias": False,
                **chosen_method["extra_options"],
            },
        )

    def _prepare(self) -> Path:
        """The float graph after the documented pre-processing."""
        from onnxruntime.quantization import quant_pre_process

        prepared = self._folder / "prepared.onnx"
        quant_pre_process(self._float, prepared, skip_symbolic_shape=True)  # it gives up on free axes
        return prepared


def open_session(path: Path, *, threads: int, optimized: Path | None = None) -> Any:
    """A session of the file on the CPU; the graph it optimized is written where it is asked for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def count_graph(path: Path) -> tuple[int, int]:
    """Quantized weights, stored in INT8 or rounded when the file is opened, and quantized activations of a graph."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    integers = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    stored = {tensor.name for tensor in graph.initializer}
    rounded = [node.input[0] for node in graph.node if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")]
    weights = sum(tensor.data_type in integers and len(tensor.dims) > 1 for tensor in graph.initializer)
    return weights + sum(name in stored for name in rounded), sum(name not in stored for name in rounded)


def count_executed(path: Path, folder: Path) -> int:
    """Products that a session runs in INT8, read from the graph it optimized, which is left in ``folder``."""
    import onnx

    saved = folder / "optimized.onnx"
    open_session(path, threads=1, optimized=saved)
    run = onnx.load(saved, load_external_data=False).graph
    return sum(node.op_type in _INT8_PRODUCTS for node in run.node)


class FeedReader:
    """Feeds as ``quantize_static`` wants its calibration data: one a call, None at the end.

    For a percentile all are padded to one length: its histograms stack the batches and need one shape.
    """

    def __init__(self, batches: Iterable[Feed], method: str = "") -> None:
        self._batches: Iterator[Feed] = iter(pad_alike(list(batches)) if method == "percentile" else batches)

    def get_next(self) -> Feed | None:
        """The next batch."""
        return next(self._batches, None)


def pad_alike(batches: list[Feed]) -> list[Feed]:
    """The batches with zeros on their right up to the longest one; a batch with fewer rows than the first is left out.

    >>> short, long = ({"input_ids": np.ones((1, width), dtype=np.int64)} for width in (1, 3))
    >>> [feed["input_ids"].tolist() for feed in pad_alike([short, long])]
    [[[1, 0, 0]], [[1, 1, 1]]]
    """
    longest = max(array.shape[1] for feed in batches for array in feed.values())
    rows = len(next(iter(batches[0].values())))
    return [
        {name: np.pad(array, ((0, 0), (0, longest - array.shape[1]))) for name, array in feed.items()}
        for feed in batches
        if len(next(iter(feed.values()))) == rows
    ]


def _choose_method(method: str) -> dict[str, Any]:
    from onnxruntime.quantization import CalibrationMethod

    if method == "percentile":
        return {"calibrate_method": CalibrationMethod.Percentile, "extra_options": {"CalibPercentile": _PERCENTILE}}
    return {"calibrate_method": CalibrationMethod.MinMax, "extra_options": {}}


def _separate_inputs(graph: Any, products: list[Any]) -> None:
    """Has the products read each activation through an Identity that nobody else reads."""
    import onnx

    own: dict[str, str] = {}
    for node in products:
        tensor = node.input[0]
        own.setdefault(tensor, f"{tensor}_of_products")
        node.input[0] = own[tensor]
    for tensor, copy in own.items():
        place = next((i + 1 for i, node in enumerate(graph.node) if tensor in node.output), 0)
        graph.node.insert(place, onnx.helper.make_node("Identity", [tensor], [copy], name=f"{copy}/Identity"))


PEER = Peer(
    name="onnxruntime",
    title="ONNX Runtime",
    requirements=(
        "onnxruntime",
        "onnx",
        "sympy",
        "numpy",
        "torch",  # from here on, what its snippet imports
        "transformers",
        "onnxscript",
    ),
    packages=("onnxruntime", "onnx", "numpy"),
    needs_graph=True,
    rows=ROWS,
    open=OnnxRuntimeModel,
    snippets=("onnxruntime.py",),
)

if __name__ == "__main__":
    serve(PEER)
