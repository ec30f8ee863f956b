"""An ONNX graph compiled by OpenVINO for this machine's CPU, and the execution graph that came of it."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from qat.errors import BuildError

Rest = Literal["f32", "bf16"]
"""What everything that is not INT8 runs in."""

INT8_TYPES = ("i8", "u8")
FLOAT_TYPES = ("f32", "bf16", "f16")

ATTENTION = "Subgraph"
"""An attention as one kernel; other chains of small operations get that type too."""

PRODUCTS = frozenset({"FullyConnected", "MatMul", "Convolution", "GroupConvolution", "Deconvolution", ATTENTION})
"""The layer types that compute products."""

_NOISE = ("Exception from ", "Check '", "Summary:", "To facilitate ")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeNode:
    """A node of the execution graph.

    Attributes:
        kind: OpenVINO's layer type, ``FullyConnected`` for instance.
        precision: the type it computes in; of a Subgraph that of its first operand.
        operands: the types of its inputs.
        results: the types of its outputs.
        origins: the nodes of the ONNX graph, and of OpenVINO's own making, that it stands for.
        constant: whether it is run once, when the graph is compiled.
    """

    kind: str
    precision: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    origins: tuple[str, ...]
    constant: bool

    @property
    def is_int8_product(self) -> bool:
        """Whether it computes a product, or a whole attention, in INT8; a boolean mask alone makes none of it."""
        if self.constant or self.kind not in PRODUCTS or self.precision not in INT8_TYPES:
            return False
        return self.kind != ATTENTION or sum(each in INT8_TYPES for each in self.operands) > 1


def load_openvino() -> Any:
    """The package.

    Raises:
        BuildError: it is not installed.
    """
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise BuildError(
            f"running on OpenVINO needs the package openvino, which cannot be imported ({error}); "
            "install it: pip install 'qdq[openvino]'"
        ) from error


def compile_graph(graph: str | bytes, *, rest: Rest | None = None, threads: int = 0, streams: int = 1) -> Any:
    """OpenVINO's compiled model.

    Args:
        graph: the path of an ONNX file, or the file's content.
        rest: what is not INT8 runs in this; None for OpenVINO's choice, BF16 where the CPU has it.
        threads: 0 for OpenVINO's own choice.
        streams: batches at once; one is tuned for latency, several for throughput.

    Raises:
        BuildError: the package is missing.
        RuntimeError: OpenVINO's, for a graph that it cannot read or compile.
    """
    core = load_openvino().Core()
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if streams > 1:
        settings |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": streams}
    if rest is not None:
        settings["INFERENCE_PRECISION_HINT"] = rest
    return core.compile_model(core.read_model(graph), "CPU", settings)


def read_rest(compiled: Any) -> str:
    """The type a compiled model runs its rest in: ``f32``, ``bf16`` or ``f16``."""
    name: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return name


def explain_refusal(error: RuntimeError) -> str:
    r"""What OpenVINO found wrong in one line, without the places in its source and its advice for developers.

    >>> explain_refusal(RuntimeError("Exception from src/core.cpp:84:\nSummary:\n-- No rule for operations: A-20\n"))
    '-- No rule for operations: A-20'
    """
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_NOISE))


def list_nodes(compiled: Any) -> tuple[RuntimeNode, ...]:
    """The nodes of the execution graph, in the order they run."""
    return tuple(_read_nodes(compiled.get_runtime_model()))


def count_int8_kernels(compiled: Any) -> int:
    """How many kernels compute a product, or a whole attention, in INT8."""
    return sum(node.is_int8_product for node in list_nodes(compiled))


def _read_nodes(graph: Any) -> Iterator[RuntimeNode]:
    constants: set[str] = set()
    results: dict[str, tuple[str, ...]] = {}
    for operation in graph.get_ordered_ops():
        facts = operation.get_rt_info()
        name, kind = operation.get_friendly_name(), _read(facts, "layerType")
        values = operation.input_values()
        sources = [value.get_node().get_friendly_name() for value in values]
        constant = kind == "Const" or (bool(sources) and constants.issuperset(sources))
        if constant:
            constants.add(name)
        results[name] = tuple(_read(facts, "outputPrecisions").split(","))
        # a node with an output for every reader names their type once
        indices = [
            min(value.get_index(), len(results[source]) - 1) for value, source in zip(values, sources, strict=True)
        ]
        yield RuntimeNode(
            kind=kind,
            precision=_read(facts, "runtimePrecision"),
            operands=tuple(results[source][index] for source, index in zip(sources, indices, strict=True)),
            results=results[name],
            origins=tuple(each for each in _read(facts, "originalLayersNames").split(",") if each),
            constant=constant,
        )


def _read(facts: Any, name: str) -> str:
    return str(facts[name].astype(str)) if name in facts else ""
