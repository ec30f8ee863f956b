"""Tiny calibrated models with heads that TensorRT fuses in INT8 (size 32), their traced graphs, and how to run one.

Everything expensive is made once by the fixtures in ``conftest.py``; a test that changes a model or a graph copies it.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    ConvBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    SqueezeBertConfig,
)

from calibration.calibrate import calibrate
from calibration.settings import CalibrationSettings
from export.exported import trace_model
from qat.huggingface import quantization_config, wrap
from qat.quantizer import disable_quantizers
from qat.recipe import Recipe, WeightGranularity
from qat.spec import Bits
from tests.tiny import MAX_LENGTH, spread_weights, tiny_tokenizer
from tests.tolerances import GRAPH_FP32

FamilyName = Literal["bert", "albert", "convbert", "squeezebert"]
Batch = dict[str, NDArray[np.int64]]

SHAPES = ((1, 1), (1, 7), (5, 16), (3, 33), (2, MAX_LENGTH))
"""(batch, sequence) that graphs are run at, none of them the traced one: the smallest, odd ones, the longest."""

LAYERS = 2
"""How often an encoder layer runs."""

PAIR = ("input_ids", "attention_mask", "token_type_ids")


CONFIGS: Mapping[FamilyName, Callable[[], PreTrainedConfig]] = {
    "bert": lambda: BertConfig(hidden_size=64, num_attention_heads=2),
    "albert": lambda: AlbertConfig(hidden_size=64, num_attention_heads=2, embedding_size=16, pad_token_id=0),
    "convbert": lambda: ConvBertConfig(
        hidden_size=128, num_attention_heads=4, embedding_size=16, num_groups=2, conv_kernel_size=5, pad_token_id=0
    ),
    "squeezebert": lambda: SqueezeBertConfig(hidden_size=64, num_attention_heads=2, embedding_size=64),
}
"""What sets a family's model apart; heads of size 32 throughout."""


@dataclass(frozen=True)
class Case:
    """A calibrated model to trace; ``pair`` adds segment ids, a ``shallow`` one has one layer where none is shared.

    ``bits`` are those of its weights.
    """

    family: FamilyName
    recipe: str
    weights: WeightGranularity
    pair: bool = False
    shallow: bool = False
    bits: Bits = 8

    @property
    def layers(self) -> int:
        """How often an encoder layer runs in it."""
        return LAYERS - (self.shallow and self.family != "albert")

    def __str__(self) -> str:
        return f"{self.family}-{self.recipe}-{self.weights}"


BERT = Case("bert", "tensorrt", "per_tensor")
ALBERT = Case("albert", "tensorrt", "per_tensor")
CONVBERT = Case("convbert", "tensorrt", "per_tensor")
SQUEEZEBERT = Case("squeezebert", "tensorrt", "per_tensor")
DEFAULTS = (BERT, ALBERT, CONVBERT, SQUEEZEBERT)
"""The default recipe on each family."""


@dataclass(frozen=True)
class Traced:
    """A calibrated model in evaluation mode and its graph before any lowering."""

    case: Case
    model: PreTrainedModel = field(repr=False)
    graph: ir.Model = field(repr=False)


def make_float(family: FamilyName, layers: int) -> PreTrainedModel:
    """A float model in evaluation mode; always the same one."""
    config: PreTrainedConfig = CONFIGS[family]()
    config.vocab_size, config.max_position_embeddings = len(tiny_tokenizer()), MAX_LENGTH
    config.intermediate_size = 128
    config.num_hidden_layers, config.num_labels = layers, 3
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    spread_weights(model, seed=1)
    model.train(False)
    return model


def make_calibrated(case: Case) -> PreTrainedModel:
    """The model of a case with a range in every quantizer."""
    model = make_float(case.family, case.layers)
    recipe = Recipe.load(case.recipe).model_copy(update={"weights": case.weights, "weight_bits": case.bits})
    wrap(model, recipe, target="rtx" if case.weights == "per_tensor" else "onnxruntime")
    inputs = PAIR if case.pair else PAIR[:2]
    calibrate(
        model,
        [to_tensors(make_batch(8, 24, seed=seed, inputs=inputs)) for seed in range(3)],
        settings=CalibrationSettings(method="max"),
    )
    quantization_config(model).task = {"name": "text-classification", "inputs": list(inputs)}
    return model


def trace_case(case: Case, folder: Path) -> Traced:
    """A case's model and graph, which takes seconds where ``folder`` does not hold it yet."""
    model, path = make_calibrated(case), folder / f"{'-'.join(map(str, astuple(case)))}.onnx"
    if not path.is_file():
        scratch = path.with_suffix(f".{os.getpid()}")
        ir.save(trace_model(model), scratch)
        scratch.replace(path)
    return Traced(case, model, ir.load(path))


def make_batch(batch: int, sequence: int, *, seed: int = 0, inputs: tuple[str, ...] = PAIR[:2]) -> Batch:
    """Random tokens, every row but the first padded to a random length of its own."""
    chance = np.random.default_rng(seed)
    lengths = chance.integers(1, sequence, size=batch, endpoint=True)
    lengths[0] = sequence
    mask = (np.arange(sequence) < lengths[:, None]).astype(np.int64)
    tokens = chance.integers(5, len(tiny_tokenizer()), size=(batch, sequence)) * mask
    segments = (np.arange(sequence) >= sequence // 2).astype(np.int64) * mask
    made = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": segments}
    return {name: made[name] for name in inputs}


def to_tensors(batch: Mapping[str, NDArray[np.int64]]) -> dict[str, torch.Tensor]:
    """The batch for the torch model."""
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def run_torch(model: PreTrainedModel, batch: Batch) -> NDArray[np.float32]:
    """The fake-quantized model's logits."""
    with torch.no_grad():
        logits: NDArray[np.float32] = model(**to_tensors(batch)).logits.numpy()
    return logits


def run_float(model: PreTrainedModel, batch: Batch) -> NDArray[np.float32]:
    """The same model's logits with its quantizers off."""
    with disable_quantizers(model):
        return run_torch(model, batch)


def run_graph(graph: ir.Model, batch: Batch) -> NDArray[np.float32]:
    """The graph's first output in ONNX Runtime, node by node as it was exported."""
    return run_feed(graph, batch)


def run_feed(graph: ir.Model, feed: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """The same for inputs of any kind."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    content = ir.to_proto(graph).SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    output: NDArray[np.float32] = session.run(None, dict(feed))[0]
    return output


def count_apart(first: NDArray[np.float32], second: NDArray[np.float32]) -> int:
    """How many rows differ by more than FP32 sums in another order do."""
    return int((row_errors(first, second) > GRAPH_FP32.value).sum())


def row_errors(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest difference in each row, relative to the largest value of ``second``."""
    errors: NDArray[np.float32] = np.abs(first - second).max(axis=-1) / np.abs(second).max()
    return errors
