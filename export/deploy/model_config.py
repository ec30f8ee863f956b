"""A server's configuration of one model, written and read by Triton's own protobuf definitions."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no types

from export.deploy.interface import Interface
from export.deploy.plan import Plan
from export.deploy.settings import Backend
from qat.errors import BuildError, DeployError

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
MODEL_FILES: Mapping[Backend, str] = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
PLATFORMS: Mapping[Backend, str] = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
_PRECISIONS = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16"}


def load_messages() -> Any:
    """Triton's ``model_config.proto`` as Python classes.

    Raises:
        BuildError: they are not installed.
    """
    try:
        return importlib.import_module("tritonclient.grpc.model_config_pb2")
    except (ImportError, RuntimeError) as error:  # tritonclient's own where grpcio is missing
        raise BuildError(
            f"deploying needs Triton's protobuf definitions, which cannot be imported ({error}); install them: "
            "pip install 'qdq[triton]'"
        ) from error


def make_config(name: str, interface: Interface, plan: Plan, facts: Mapping[str, object]) -> Any:
    """The ``ModelConfig`` of a model, but for its labels.

    Args:
        name: of the model.
        interface: of its graph.
        plan: how it is run.
        facts: the export's manifest, for what a provider has to know.
    """
    messages = load_messages()
    config = messages.ModelConfig(
        name=name, backend=plan.backend, platform=PLATFORMS[plan.backend], max_batch_size=plan.max_batch
    )
    config.default_model_filename = MODEL_FILES[plan.backend]
    batched = plan.max_batch > 0
    for tensors, add in ((interface.inputs, config.input.add), (interface.outputs, config.output.add)):
        for tensor in tensors:
            kind = messages.DataType.Value(tensor.data_type)
            add(name=tensor.name, data_type=kind, dims=tensor.dims(batched=batched))
    if batched:
        config.dynamic_batching.preferred_batch_size.extend(plan.preferred)
        config.dynamic_batching.max_queue_delay_microseconds = plan.queue_delay
    group = config.instance_group.add(count=plan.instances)
    group.kind = group.KIND_CPU if plan.provider == "cpu" else group.KIND_GPU
    if plan.profiles > 1:
        group.profile.extend(str(number) for number in range(plan.profiles))
    _accelerate(config, interface, plan, facts)
    return config


def write_config(config: Any) -> str:
    """A configuration as a ``config.pbtxt`` has it."""
    return str(text_format.MessageToString(config))


def read_config(path: Path) -> Any:
    """The ``ModelConfig`` of a ``config.pbtxt``.

    Raises:
        BuildError: Triton's definitions are not installed.
        DeployError: no such file, or text that is not of a ``ModelConfig``.
    """
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), load_messages().ModelConfig())
    except text_format.ParseError as error:
        raise DeployError(f"{path} is no model configuration ({error}): mend that place, or deploy again") from error
    except (OSError, ValueError) as error:
        raise DeployError(f"{path} cannot be read ({error}): deploy again") from error


def _accelerate(config: Any, interface: Interface, plan: Plan, facts: Mapping[str, object]) -> None:
    """What ONNX Runtime computes on; TensorRT is told every shape at once, or it builds an engine at each new one."""
    if plan.provider not in ("cuda", "tensorrt"):
        return
    added = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name=plan.provider)
    if plan.provider == "cuda":
        return
    # INT8 is what a graph with QuantizeLinear needs; Triton takes one mode only
    precision = "INT8" if facts.get("quantized") else _PRECISIONS.get(str(facts.get("precision")), "FP32")
    added.parameters["precision_mode"] = precision
    if plan.max_batch == 0:
        return
    usual, largest = plan.shapes[len(plan.shapes) // 2], (plan.max_batch, max(tokens for _, tokens in plan.shapes))
    for end, shape in (("min", (1, 1)), ("opt", usual), ("max", largest)):
        written = (
            f"{tensor.name}:{'x'.join(map(str, interface.input_shape(tensor, *shape)))}" for tensor in interface.inputs
        )
        added.parameters[f"trt_profile_{end}_shapes"] = ",".join(written)
