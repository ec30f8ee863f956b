"""An engine's layer table, as the build log prints it or the engine inspector returns it, becomes typed layers."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from export.multiplies import read_metadata

_BYTES = {
    "Float": 4.0, "Half": 2.0, "BFloat16": 2.0, "Int8": 1.0, "UInt8": 1.0, "Bool": 1.0, "Int32": 4.0, "Int64": 8.0,
    "FP8": 1.0, "Int4": 0.5, "FP4": 0.5,
}  # fmt: skip
_SPELLINGS = {
    "fp32": "Float", "float32": "Float", "float": "Float", "fp16": "Half", "float16": "Half", "half": "Half",
    "bf16": "BFloat16", "bfloat16": "BFloat16", "int8": "Int8", "uint8": "UInt8", "bool": "Bool", "int32": "Int32",
    "int64": "Int64", "fp8": "FP8", "int4": "Int4", "fp4": "FP4",
}  # fmt: skip
_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>|.*? \})\], "
    r"(?:Constants: \[(?P<constants>|.*? \})\], )?Outputs: \[(?P<outputs>|.*? \})\](?:, (?P<rest>.*))?"
)
_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<shape>[-\d,\s]*)\](?P<facts>.*?) \}(?=, \{ Name: |\s*$)"
)
_DATATYPE = re.compile(r"Data ?[tT]ype: (\w+)|Format(?:/Datatype)?: [^,{}]*?\b(\w+) format")
_GRAPH = re.compile(r"_myl(\d+)_\d+$")
_PROFILE = re.compile(r" \[profile \d+\]")
_MOST_ELEMENTS = 2**63
_SYNCHRONISE = ("signal", "wait")


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorFact:
    """A tensor at a kernel's edge; -1 in its shape is an axis that the engine leaves dynamic."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int | None:
        """How many values it holds, ``None`` where an axis is dynamic."""
        return None if min(self.shape, default=1) < 0 else prod(self.shape)

    @property
    def bytes(self) -> float | None:
        """What it occupies, ``None`` where an axis is dynamic or the type unknown."""
        count, size = self.elements, _BYTES.get(self.dtype)
        return None if count is None or size is None else count * size


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLayer:
    """One kernel of an engine; ``metadata`` holds the ONNX nodes that it stems from."""

    name: str
    kind: str
    inputs: tuple[TensorFact, ...]
    outputs: tuple[TensorFact, ...]
    constants: tuple[TensorFact, ...]
    metadata: tuple[str, ...]

    @property
    def is_kernel(self) -> bool:
        """Whether it computes; the others only order two streams."""
        return self.kind not in _SYNCHRONISE

    @property
    def activation_bytes(self) -> float | None:
        """The bytes of its inputs and outputs, constants apart; ``None`` where one is unknown."""
        sizes = [tensor.bytes for tensor in (*self.inputs, *self.outputs)]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTable:
    """The layers of an engine in the order they run, or the ``reason`` why they cannot be told."""

    layers: tuple[EngineLayer, ...]
    reason: str | None = None


def read_layer_table(source: str | Mapping[str, Any] | Sequence[Any] | None) -> LayerTable:
    """The layers of a table: log text that begins with ``Layers:``, inspector JSON, or its decoded value.

    Never raises on what a builder printed: a table that is absent or not understood comes back empty, with a reason.
    """
    if source is None:
        return _unreadable("the builder printed no layer table")
    if isinstance(source, str):
        text = source.strip()
        if text.startswith("Layers:"):
            return _read_text(text)
        try:
            source = json.loads(text)
        except (ValueError, RecursionError):
            return _unreadable("the layer table is neither a printed table nor JSON")
    document = source.get("Layers") if isinstance(source, Mapping) else source
    if not isinstance(document, Sequence) or isinstance(document, str):
        return _unreadable("the inspector's answer has no list of layers")
    return _read_documents(document)


def split_profiles(table: LayerTable, profiles: int) -> list[LayerTable]:
    """The layers of each optimization profile; a builder lists those of all, one profile after the other.

    A profile's layers carry a graph number of their own (``..._myl1_7``) and, after the first, the names of their nodes
    a mark (``[profile 1]``). Where the numbers are not one a profile, the tables cannot be told apart.
    """
    if profiles == 1 or table.reason is not None:
        return [table]
    groups: dict[str, list[EngineLayer]] = {}
    for layer in table.layers:
        match = _GRAPH.search(layer.name)
        groups.setdefault(match[1] if match else "", []).append(layer)
    if len(groups) != profiles:
        return [_unreadable(f"the layers of {profiles} profiles cannot be told apart")]
    return [LayerTable(layers=tuple(_unmark(layer) for layer in layers)) for layers in groups.values()]


def _unmark(layer: EngineLayer) -> EngineLayer:
    return replace(layer, name=_PROFILE.sub("", layer.name))


def _unreadable(reason: str) -> LayerTable:
    return LayerTable(layers=(), reason=reason)


def _read_text(text: str) -> LayerTable:
    layers: list[EngineLayer] = []
    for line in text.split("\n")[1:]:  # splitlines would break at the separators inside metadata
        if not line.strip():
            break
        match = _LINE.fullmatch(line.strip())
        if match is None:
            return _unreadable(f"a line of the layer table is not understood: {line[:80]!r}")
        groups = [_read_tensors(match[key] or "") for key in ("inputs", "outputs", "constants")]
        inputs, outputs, constants = groups
        if inputs is None or outputs is None or constants is None:
            return _unreadable(f"a tensor of the layer {match['name']!r} is not understood")
        layers.append(
            EngineLayer(
                name=match["name"],
                kind=match["kind"],
                inputs=inputs,
                outputs=outputs,
                constants=constants,
                metadata=read_metadata((match["rest"] or "").partition("Metadata: ")[2]),
            )
        )
    return LayerTable(layers=tuple(layers)) if layers else _unreadable("the layer table is empty")


def _read_tensors(text: str) -> tuple[TensorFact, ...] | None:
    """The tensors of one bracket; ``None`` where not every opening brace became one."""
    try:
        tensors = [
            TensorFact(name=match["name"], dtype=_read_datatype(match["facts"]), shape=_read_shape(match["shape"]))
            for match in _TENSOR.finditer(text.strip())
        ]
    except ValueError:
        return None
    return tuple(tensors) if len(tensors) == text.count("{ Name: ") else None


def _read_shape(text: str) -> tuple[int, ...]:
    return _read_sizes([size for size in text.split(",") if size.strip()])


def _read_sizes(sizes: Sequence[Any]) -> tuple[int, ...]:
    shape = tuple(int(size) for size in sizes)
    if prod(max(size, 1) for size in shape) > _MOST_ELEMENTS:
        raise ValueError(f"a tensor of {len(shape)} axes is larger than any memory")
    return shape


def _read_datatype(facts: str) -> str:
    match = _DATATYPE.search(facts)
    spelling = next((group for group in match.groups() if group), "") if match else ""
    return _SPELLINGS.get(spelling.lower(), spelling or "unknown")


def _read_documents(documents: Sequence[Any]) -> LayerTable:
    layers: list[EngineLayer] = []
    for document in documents:
        if not isinstance(document, Mapping):
            return _unreadable("the inspector names layers without detail; build with profiling_verbosity DETAILED")
        try:
            layers.append(_read_document(document))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            return _unreadable(f"a layer of the inspector's answer is not understood: {error!r}")
    return LayerTable(layers=tuple(layers)) if layers else _unreadable("the layer table is empty")


def _read_document(document: Mapping[str, Any]) -> EngineLayer:
    constants = [_read_fact(tensor) for tensor in document.get("Constants", [])]
    weights = document.get("Weights")
    if isinstance(weights, Mapping) and weights.get("Count"):
        dtype = _SPELLINGS.get(str(weights["Type"]).lower(), str(weights["Type"]))
        name = f"{document['Name']}/Weights"
        constants.append(TensorFact(name=name, dtype=dtype, shape=_read_sizes([weights["Count"]])))
    return EngineLayer(
        name=str(document["Name"]),
        kind=str(document["LayerType"]),
        inputs=tuple(_read_fact(tensor) for tensor in document["Inputs"]),
        outputs=tuple(_read_fact(tensor) for tensor in document["Outputs"]),
        constants=tuple(constants),
        metadata=read_metadata(str(document.get("Metadata", ""))),
    )


def _read_fact(document: Mapping[str, Any]) -> TensorFact:
    spelled = document.get("Datatype") or document.get("DataType")
    facts = f"Datatype: {spelled}" if spelled else f"Format: {document.get('Format/Datatype', document.get('Format'))}"
    return TensorFact(
        name=str(document["Name"]),
        dtype=_read_datatype(facts),
        shape=_read_sizes(document["Dimensions"]),
    )
