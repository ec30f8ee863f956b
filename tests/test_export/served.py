"""Exported folders and engines to deploy, made in a moment: a head on an embedding table, with all that lies beside."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from transformers import BertConfig

from export.engine_build import BuiltEngine
from export.engine_files import write_engine
from export.engine_spec import BuilderName, EngineSpec, parse_profiles
from qat.artefacts import write_manifest
from qat.huggingface import QDQConfig
from tests.tiny import MAX_LENGTH, tiny_tokenizer

WIDTH = 4
Axes = tuple[int | str, ...]


@dataclass(frozen=True)
class Served:
    """A task as a graph has it: its inputs' axes, its outputs with theirs, its labels."""

    task: str
    outputs: Mapping[str, Axes]
    axes: Axes = ("batch", "sequence")
    labels: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)


TEXT = Served("text-classification", {"logits": ("batch", 3)}, labels=("animal", "plant", "tool"))
TOKENS = Served("token-classification", {"logits": ("batch", "sequence", 2)}, labels=("O", "B-noun"))
CHOICE = Served("multiple-choice", {"logits": ("batch", 4)}, axes=("batch", 4, "sequence"))
SPANS = Served("question-answering", {"start_logits": ("batch", "sequence"), "end_logits": ("batch", "sequence")})
REGRESSION = Served(
    "text-classification", {"logits": ("batch", 1)}, labels=("LABEL_0",), settings={"problem_type": "regression"}
)
SERVED = {"text": TEXT, "tokens": TOKENS, "choice": CHOICE, "spans": SPANS, "regression": REGRESSION}


def save_exported(
    folder: Path,
    served: Served = TEXT,
    *,
    target: str = "onnxruntime",
    precision: str = "fp32",
    shape: tuple[int, int] | None = None,
) -> Path:
    """``folder`` as ``qdq export`` leaves it, with a graph of its interface; of one ``shape`` where one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(make_graph(served, shape=shape), folder / "model.onnx")
    tiny_tokenizer().save_pretrained(folder)
    task = {"name": served.task, "inputs": ["input_ids", "attention_mask"], "axes": list(served.axes)}
    labels = served.labels or ("LABEL_0", "LABEL_1")
    config = BertConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
    )
    entry = QDQConfig(target=target, state="calibrated", task=task).to_dict()
    written = {**config.to_dict(), **served.settings, "quantization_config": entry}
    (folder / "config.json").write_text(json.dumps(written), encoding="utf-8")
    write_manifest(
        folder, stage="export", inputs={}, facts={"target": target, "precision": precision, "quantized": True}
    )
    return folder


def make_graph(
    served: Served = TEXT,
    *,
    shape: tuple[int, int] | None = None,
    vocabulary: int | None = None,
    inputs: tuple[str, ...] = ("input_ids", "attention_mask"),
) -> onnx.ModelProto:
    """Means of embeddings times a matrix, with the task's inputs and outputs; every answer depends on every token."""
    chance = np.random.default_rng(0)
    sizes: dict[object, int] = {} if shape is None else dict(zip(("batch", "sequence"), shape, strict=True))
    table = chance.normal(size=(vocabulary or len(tiny_tokenizer()), WIDTH)).astype(np.float32)
    axis = len(served.axes) - 1
    nodes = [
        helper.make_node("Gather", ["table", inputs[0]], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "over"], ["means"], keepdims=0),
    ]
    weights: dict[str, NDArray[Any]] = {"table": table, "over": np.array([axis], dtype=np.int64)}
    for name, axes in served.outputs.items():
        by_token = "sequence" in axes
        last = int(axes[-1]) if len(axes) == len(served.axes) + by_token else 0  # or else one number, on no axis
        weights[f"{name}_weight"] = chance.normal(size=(WIDTH, last or 1)).astype(np.float32)
        product = name if last else f"{name}_wide"
        nodes.append(helper.make_node("MatMul", ["rows" if by_token else "means", f"{name}_weight"], [product]))
        if not last:
            weights[f"{name}_axis"] = np.array([-1], dtype=np.int64)
            nodes.append(helper.make_node("Squeeze", [product, f"{name}_axis"], [name]))
    fix = [sizes.get(each, each) for each in served.axes]
    graph = helper.make_graph(
        nodes,
        "served",
        [helper.make_tensor_value_info(name, TensorProto.INT64, fix) for name in inputs],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [sizes.get(each, each) for each in axes])
            for name, axes in served.outputs.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def save_engine(
    exported: Path, *, shapes: str = "1x1,8x32,16x64", builder: BuilderName = "tensorrt", version: str = "11.1.0"
) -> Path:
    """An engine beside a manifest that says it was built from ``exported``; its plan is not one that runs."""
    first, *more = parse_profiles(shapes)
    built = BuiltEngine(
        plan=b"plan",
        layer_table=None,
        builder=builder,
        version=version,
        hardware=("sm_89",),
        seconds=1.0,
        spec=EngineSpec(builder=builder, shapes=first, more_shapes=tuple(more)),
        gpu="NVIDIA L4 (sm_89)",
        macs={},
    )
    path = exported.parent / "model.engine"
    write_engine(built, path, onnx_path=exported / "model.onnx", facts={})
    return path
