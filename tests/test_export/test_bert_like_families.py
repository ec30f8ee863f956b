"""The families built from BERT's parts: their graphs answer as torch does, their engines hold what BERT's hold."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from calibration.calibrate import calibrate
from calibration.settings import CalibrationSettings
from export.audit.engine_audit import EngineAudit
from export.engine import BuildSettings, build
from export.exported import Lowering, lower_graph, trace_model, write_exported
from export.targets import find_target
from qat.huggingface import quantization_config, wrap
from tests.test_export.tiny_models import SHAPES, count_apart, make_batch, run_graph, run_torch, to_tensors
from tests.tiny import MAX_LENGTH, spread_weights, tiny_tokenizer
from tests.tolerances import FLIPPED_ROWS

SIZES: Mapping[str, Any] = {
    "hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": len(tiny_tokenizer()),
}  # fmt: skip
CONFIGS: Mapping[str, Callable[[], PreTrainedConfig]] = {
    "bert": lambda: BertConfig(**SIZES, intermediate_size=128, max_position_embeddings=MAX_LENGTH),
    "roberta": lambda: RobertaConfig(
        **SIZES, intermediate_size=128, max_position_embeddings=MAX_LENGTH + 1, type_vocab_size=1, pad_token_id=0
    ),
    "electra": lambda: ElectraConfig(
        **SIZES, intermediate_size=128, max_position_embeddings=MAX_LENGTH, embedding_size=32
    ),
    "distilbert": lambda: DistilBertConfig(
        vocab_size=len(tiny_tokenizer()), dim=64, n_heads=2, n_layers=2, hidden_dim=128,
        max_position_embeddings=MAX_LENGTH,
    ),
}  # fmt: skip
MORE_KERNELS = {"roberta": 2, "electra": 2, "distilbert": 0}
"""Beyond BERT's: RoBERTa counts its positions from the tokens, ELECTRA projects embeddings and has a deeper head."""

Make = Callable[[str], tuple[PreTrainedModel, ir.Model]]


@pytest.fixture(scope="module")
def made() -> Make:
    """The function that gives a family's calibrated model and its graph, each made once."""
    return cache(make)


def make(family: str) -> tuple[PreTrainedModel, ir.Model]:
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(CONFIGS[family]())
    spread_weights(model, seed=1)
    model.train(False)
    wrap(model, target="rtx")
    batches = [to_tensors(make_batch(8, 24, seed=seed)) for seed in range(3)]
    calibrate(model, batches, settings=CalibrationSettings(method="max"))
    quantization_config(model).task = {"name": "text-classification", "inputs": ["input_ids", "attention_mask"]}
    return model, trace_model(model)


def audit(made: Make, family: str, folder: Path) -> EngineAudit:
    model, graph = made(family)
    lowering = Lowering(find_target("rtx"), "fp16")
    write_exported(graph, model, folder / family, lowering=lowering, tokenizer=tiny_tokenizer())
    settings = BuildSettings(shapes="1x1,8x32,16x64", hardware=("sm_89",))
    return build(folder / family, folder / f"{family}.engine", settings=settings).audit


@pytest.mark.parametrize("family", MORE_KERNELS)
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "rtx"])
def test_every_target_answers_as_torch_does(made: Make, family: str, target: str) -> None:
    model, graph = made(family)
    lowered = lower_graph(graph, Lowering(find_target(target), "fp32"))
    apart = sum(
        count_apart(run_graph(lowered, batch), run_torch(model, batch))
        for batch in (make_batch(*shape, seed=7) for shape in SHAPES)
    )
    assert apart <= FLIPPED_ROWS.value


@pytest.mark.parametrize("family", MORE_KERNELS)
def test_an_engine_runs_every_planned_product_in_int8(made: Make, family: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    found, bert = (audit(made, name, tmp_path) for name in (family, "bert"))
    assert (found.int8_gemms, found.float_gemms, found.int8_attentions) == (bert.int8_gemms, 0, bert.int8_attentions)
    assert found.kernels == bert.kernels + MORE_KERNELS[family]


def test_roberta_answers_alike_however_its_rows_are_padded(made: Make) -> None:
    model, graph = made("roberta")
    lowered = lower_graph(graph, Lowering(find_target("onnxruntime"), "fp32"))
    batch = make_batch(4, 9, seed=3)
    wider = {name: np.pad(x, ((0, 0), (0, 6))) for name, x in batch.items()}
    assert count_apart(run_torch(model, wider), run_torch(model, batch)) <= FLIPPED_ROWS.value
    assert count_apart(run_graph(lowered, wider), run_graph(lowered, batch)) <= FLIPPED_ROWS.value
