"""NNCF's post-training quantization of the OpenVINO model, run by OpenVINO on the CPU.

Recipes as its documentation describes them: https://docs.openvino.ai/2026/openvino-workflow/model-optimization.html
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.job import Feed, Inside, Job
from benchmarks.peers.row import Peer, Row
from benchmarks.peers.worker import is_in_encoder_layer, serve

_PRODUCTS = ("MatMul", "Convolution", "GroupConvolution")
_INT8_TYPES = ("i8", "u8")
_NO_WORK = ("Constant", "Parameter", "Result")

ROWS = (
    Row(
        recipe="default",
        standing="as shipped",
        placement="own",
        note="nncf.quantize without options",
    ),
    Row(
        recipe="transformer",
        standing="best",
        placement="own",
        note="model_type=TRANSFORMER: SmoothQuant, bias fix",
        costs=("latency",),
    ),
    Row(
        recipe="transformer bf16", standing="best", placement="own", note="what is not INT8 in BF16", costs=("latency",)
    ),
    Row(
        recipe="linear",
        standing="matched",
        placement="linear",
        note="transformer preset, encoder layers only",
    ),
    Row(
        recipe="full",
        standing="matched",
        placement="qdqbert",
        note="transformer preset off; a residual add has both inputs quantized, so it matches qdqbert, not tensorrt",
    ),
)


class NncfModel:
    """The float graph compiled by OpenVINO, then the quantized one."""

    def __init__(self, job: Job, folder: Path) -> None:
        import openvino

        if job.graph is None:
            raise RuntimeError("no float graph to start from: torch could not export the checkpoint")
        self._folder = folder
        self._core = openvino.Core()
        self._core.set_property("CPU", {"INFERENCE_NUM_THREADS": job.threads, "INFERENCE_PRECISION_HINT": "f32"})
        self._model = self._core.read_model(str(job.graph))
        self._compiled = self._core.compile_model(self._model, "CPU")

    def infer(self, feed: Feed) -> NDArray[np.float32]:
        """The logits of one batch."""
        names = [port.get_any_name() for port in self._compiled.inputs]
        return np.asarray(self._compiled({name: feed[name] for name in names})[0], dtype=np.float32)

    def quantize(self, recipe: str, batches: Iterable[Feed]) -> None:
        """Quantizes the OpenVINO model and compiles it."""
        import nncf

        data = list(batches)
        options: dict[str, Any] = {}
        if recipe != "default" and recipe != "full":
            options["model_type"] = nncf.ModelType.TRANSFORMER
        if recipe in ("linear", "full"):
            options["ignored_scope"] = nncf.IgnoredScope(names=self._list_ignored(recipe), validate=False)
        if recipe.endswith("bf16"):
            self._core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
        self._model = nncf.quantize(self._model, nncf.Dataset(data), subset_size=len(data), **options)
        self._compiled = self._core.compile_model(self._model, "CPU")

    def describe(self) -> Inside:
        """What OpenVINO executes in INT8, and the size of the saved model."""
        import openvino

        operations = self._model.get_ops()
        fakes = [each for each in operations if each.get_type_name() == "FakeQuantize"]
        weights = [each for each in operations if _is_stored_integer(each)]
        path = self._folder / "model.xml"
        openvino.save_model(self._model, path, compress_to_fp16=False)
        return Inside(
            weights=len(weights),
            activations=len(fakes),
            products=self._count_executed(),
            file_bytes=path.stat().st_size + path.with_suffix(".bin").stat().st_size,
            counted="executes",
        )

    def _count_executed(self) -> int:
        """Products whose kernel is an INT8 one, by the execution graph's own word."""
        run = self._compiled.get_runtime_model()
        facts = [each.get_rt_info() for each in run.get_ops()]
        return sum(
            _fact(each, "layerType") in ("FullyConnected", "MatMul", "Convolution")
            and _fact(each, "runtimePrecision") in _INT8_TYPES
            for each in facts
        )

    def _list_ignored(self, recipe: str) -> list[str]:
        """All but the encoder's products and residual adds (``full``); products and tables outside (``linear``)."""
        operations = [each for each in self._model.get_ops() if each.get_type_name() not in _NO_WORK]
        if recipe == "linear":
            operations = [each for each in operations if each.get_type_name() in (*_PRODUCTS, "Gather")]
        kept = {
            each.get_friendly_name()
            for each in operations
            if each.get_type_name() in _PRODUCTS or _is_residual_add(each)
        }
        names = [each.get_friendly_name() for each in operations]
        return [name for name in names if name not in kept or not is_in_encoder_layer(name)]


def _is_residual_add(operation: Any) -> bool:
    """Whether it adds two activations and is not the mask before a softmax."""
    if operation.get_type_name() != "Add":
        return False
    sources = [operation.input_value(index).get_node().get_type_name() for index in range(2)]
    readers = [each.get_node().get_type_name() for each in operation.output(0).get_target_inputs()]
    return "Constant" not in sources and "Softmax" not in readers


def _is_stored_integer(operation: Any) -> bool:
    """Whether it is a constant INT8 weight, a matrix or more."""
    stored = operation.get_type_name() == "Constant" and operation.get_element_type().get_type_name() in _INT8_TYPES
    return stored and len(operation.get_output_shape(0)) > 1


def _fact(facts: Any, name: str) -> str:
    return str(facts[name].astype(str)) if name in facts else ""


PEER = Peer(
    name="nncf",
    title="NNCF + OpenVINO",
    requirements=("nncf", "openvino", "onnx", "numpy", "torch", "transformers"),  # the last two for the snippet
    packages=("nncf", "openvino", "numpy"),
    needs_graph=True,
    rows=ROWS,
    open=NncfModel,
    snippets=("nncf.py",),
)

if __name__ == "__main__":
    serve(PEER)
