"""The float ONNX graph that graph quantizers start from; run by ``python -m``, so that a failure is a row's error."""

import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from export.onnx_export import trace_graph
from qat.artefacts import atomic_file
from qat.tasks import find_task


def write_float_graph(checkpoint: Path, task: str, inputs: Sequence[str], path: Path) -> None:
    """``path``, holding the checkpoint as torch's dynamo exporter traces it: FP32, axes free, nodes named by module.

    Attention is the eager one, two matmuls around a softmax, which every quantizer knows. The shapes the exporter
    noted are left out: ONNX Runtime's dynamic quantizer transposes weights and then trips over their old shapes.
    """
    model = find_task(task).auto_class.from_pretrained(checkpoint, attn_implementation="eager", trust_remote_code=False)
    traced = ir.to_proto(trace_graph(model.eval(), inputs=inputs, outputs=("logits",)))
    del traced.graph.value_info[:]
    with atomic_file(path) as staging:
        onnx.save(traced, staging)


if __name__ == "__main__":
    write_float_graph(Path(sys.argv[1]), sys.argv[2], sys.argv[4:], Path(sys.argv[3]))
