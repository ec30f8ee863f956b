"""The overflow probe: which values of a graph come near what FP16 holds, on real rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from export.passes.half_precision import FP16_MAX
from export.passes.qdq_nodes import DEQUANTIZE
from qat.batches import find_pad, iterate_batches
from qat.tasks import find_task
from qat.tasks.record import read_task_record

Feed = Mapping[str, NDArray[np.int64]]
_BATCH = 8
_PEAK = "/peak"


@dataclass(frozen=True, kw_only=True, slots=True)
class Overflow:
    """A node whose answer came nearer to FP16's end than allowed: the largest magnitude, and who touches it."""

    node: str
    largest: float
    readers: tuple[str, ...]

    @property
    def keep(self) -> tuple[str, ...]:
        """The nodes that have to compute in FP32 for the value never to be an FP16 one."""
        return (self.node, *self.readers)


def read_probe_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, *, limit: int
) -> list[dict[str, NDArray[np.int64]]]:
    """The first ``limit`` rows of a file as padded batches of the model's inputs.

    Raises:
        DataError: rows that the model's task cannot use, or a model that does not know its task.
    """
    record = read_task_record(model.config, folder=Path(model.config.name_or_path or ""), given=None)
    task = find_task(record.name)
    rows = task.load(path, columns=record.columns, limit=limit)
    encoded = task.encode(rows, tokenizer=tokenizer, config=model.config, max_length=record.max_length)
    pad = find_pad(tokenizer)
    batches = iterate_batches(encoded, batch_size=_BATCH, pad_token_id=pad)
    return [{name: np.asarray(batch.inputs[name], np.int64) for name in record.inputs} for batch in batches]


def find_overflows(model: ir.Model, feeds: Sequence[Feed], *, margin: float) -> list[Overflow]:
    """The nodes whose answers reach FP16's largest number divided by ``margin``, the largest first.

    Args:
        model: an FP32 graph, lowered, the one that becomes FP16; it is run on ONNX Runtime node by node.
        feeds: its inputs, a batch each.
        margin: how far beyond these rows others may go: 4 keeps two bits.
    """
    probed = model.clone()
    peaks = _add_peaks(probed)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    content = ir.to_proto(probed).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    largest = dict.fromkeys(peaks, 0.0)
    for feed in feeds:
        for name, peak in zip(peaks, session.run(list(peaks), dict(feed)), strict=True):
            largest[name] = float(np.maximum(largest[name], peak))  # what is no number stays none
    found = [
        Overflow(node=peaks[name], largest=value, readers=_readers(model, peaks[name]))
        for name, value in largest.items()
        if not value <= FP16_MAX / margin
    ]
    return sorted(found, key=lambda each: -each.largest)


def _add_peaks(model: ir.Model) -> dict[str, str]:
    """New outputs of the graph, the largest magnitude of every float value, each with the node that makes it.

    What a DequantizeLinear answers is within its range, which calibration keeps within FP16.
    """
    peaks: dict[str, str] = {}
    for node in list(model.graph):
        if node.op_type == DEQUANTIZE or node.outputs[0].dtype != ir.DataType.FLOAT:
            continue
        size = ir.node("Abs", [node.outputs[0]], name=f"{node.name}{_PEAK}/Abs")
        peak = ir.node("ReduceMax", [size.outputs[0]], {"keepdims": 0}, name=f"{node.name}{_PEAK}")
        for made in (size, peak):
            made.outputs[0].name, made.outputs[0].type = f"{made.name}_output", ir.TensorType(ir.DataType.FLOAT)
        peak.outputs[0].shape = ir.Shape(())
        model.graph.extend([size, peak])
        model.graph.outputs.append(peak.outputs[0])
        peaks[f"{peak.name}_output"] = str(node.name)
    return peaks


def _readers(model: ir.Model, name: str) -> tuple[str, ...]:
    node = next(node for node in model.graph if node.name == name)
    return tuple(dict.fromkeys(str(use.node.name) for output in node.outputs for use in output.uses()))
