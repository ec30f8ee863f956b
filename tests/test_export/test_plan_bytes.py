"""Kernels and bytes of engines at the size of real layers: INT8 against its own FP16 twin."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx_ir as ir
import pytest
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from benchmarks.placeholder_ranges import fill_ranges
from export.audit.build_audit import audit_engine
from export.audit.engine_audit import LEAST_LAYER_BYTES, EngineAudit
from export.engine_spec import parse_shapes
from export.exported import Lowering, lower_graph, trace_model
from export.targets import find_target
from qat.families import in_encoder_layer
from qat.huggingface import quantization_config, wrap
from qat.recipe import Recipe
from tests.test_export.tiny_models import CONFIGS, PAIR, FamilyName
from tests.tiny import tiny_tokenizer
from tests.tolerances import KERNELS, PLAN_BYTES

pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")

SIZES = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": 2}
OF_A_FAMILY = {
    "bert": {},
    "albert": {"embedding_size": 128},
    "convbert": {"embedding_size": 128, "conv_kernel_size": 9},
    "squeezebert": {"embedding_size": 384},
}


@dataclass(frozen=True)
class Plans:
    """The engine's audit and that of its FP16 twin, on dynamic shapes, their bytes at 8 rows of 128 tokens."""

    int8: EngineAudit
    fp16: EngineAudit


Plan = Callable[[FamilyName, str], Plans]


def make_model(family: FamilyName, recipe: str) -> PreTrainedModel:
    """A model of that size with random weights, every range the same: a plan depends on none."""
    config = CONFIGS[family]()
    config.update(SIZES | OF_A_FAMILY[family])
    config.vocab_size, config.max_position_embeddings, config.num_labels = len(tiny_tokenizer()), 128, 3
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config).eval()
    wrap(model, Recipe.load(recipe).for_target("rtx"))
    fill_ranges(model)
    quantization_config(model).task = {"name": "text-classification", "inputs": list(PAIR[:2])}
    return model


def build_plans(family: FamilyName, recipe: str, folder: Path) -> Plans:
    graph = trace_model(make_model(family, recipe))

    def audit(*, quantized: bool) -> EngineAudit:
        path = folder / f"{quantized}.onnx"
        ir.save(lower_graph(graph, Lowering(find_target("rtx"), "fp16", quantized=quantized)), path)
        shapes = parse_shapes("1x1,8x64,32x128")
        return audit_engine(path, hardware=("sm_89",), shapes=shapes, in_encoder=in_encoder_layer)

    return Plans(int8=audit(quantized=True), fp16=audit(quantized=False))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The function that builds the plans of a family and recipe, each once."""
    return cache(lambda family, recipe: build_plans(family, recipe, tmp_path_factory.mktemp(family)))


def share(plans: Plans) -> float:
    assert plans.int8.activation_mb is not None
    assert plans.fp16.activation_mb is not None
    return plans.int8.activation_mb / plans.fp16.activation_mb


@pytest.mark.parametrize("family", CONFIGS)
def test_int8_moves_no_more_than_its_share_of_bytes_in_no_more_kernels(family: FamilyName, plan: Plan) -> None:
    plans = plan(family, "tensorrt")
    assert plans.int8.as_planned
    assert share(plans) <= PLAN_BYTES[family].value
    assert plans.int8.kernels <= KERNELS.value * plans.fp16.kernels
    assert plans.int8.layer_bytes is not None
    assert plans.int8.layer_bytes > LEAST_LAYER_BYTES


@pytest.mark.parametrize("family", ["bert", "squeezebert"])
def test_lean_moves_fewer_still(family: FamilyName, plan: Plan) -> None:
    full, lean = plan(family, "tensorrt"), plan(family, "lean")
    assert lean.int8.as_planned
    assert share(lean) < share(full)
    assert lean.int8.kernels == full.int8.kernels
