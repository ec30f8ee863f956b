"""The targets, one lowering a file; importing this package registers them.

A new target is one file here: its passes in order, the granularities it can take, a ``register_target``.
"""

from export.targets import onnxruntime, openvino, rtx, tensorrt
from export.targets.base import Target, find_target, list_targets

__all__ = ["Target", "find_target", "list_targets", "onnxruntime", "openvino", "rtx", "tensorrt"]
