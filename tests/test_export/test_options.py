"""Options that reach the graph: segments and positions as its inputs, ALBERT's groups of shared layers."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from benchmarks.accuracy import measure_accuracy
from export.audit.build_audit import audit_engine
from export.engine_spec import parse_shapes
from export.exported import Lowering, export, lower_graph, trace_model
from export.runners.load import load_runner
from export.settings import ExportSettings
from export.targets import find_target
from qat.errors import DataError, ExportError, RecipeError
from qat.families import in_encoder_layer
from qat.recipe import validate_settings
from tests.calibrated import TASK, encode_tiny, make_calibrated
from tests.test_export.tiny_models import PAIR, SHAPES, Batch, count_apart, make_batch, run_graph, to_tensors
from tests.tiny import TINY_MODELS, tiny_albert, tiny_distilbert
from tests.tolerances import FLIPPED_ROWS

EVERY = (*PAIR, "position_ids")
QUICK = ("bert", "roberta")


def inputs_of(family: str) -> tuple[str, ...]:
    return EVERY if family != "distilbert" else tuple(name for name in EVERY if name != "token_type_ids")


def feed_for(shape: tuple[int, int], inputs: tuple[str, ...]) -> Batch:
    """A batch with every row's tokens in an order of its own."""
    batch = make_batch(*shape, seed=5)
    chance = np.random.default_rng(6)
    places = np.stack([chance.permutation(shape[1]) for _ in range(shape[0])]).astype(np.int64)
    every = {**make_batch(*shape, seed=5, inputs=PAIR), "position_ids": np.minimum(places + 1, 63), **batch}
    return {name: every[name] for name in inputs}


def answer(model: PreTrainedModel, feed: Batch) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = model(**to_tensors(feed)).logits.numpy()
    return logits


def check(model: PreTrainedModel, inputs: tuple[str, ...]) -> ir.Model:
    """The traced graph, whose answers are the model's and depend on every input."""
    traced = trace_model(model, inputs)
    graph = lower_graph(traced, Lowering(find_target("rtx"), "fp32"))
    assert [value.name for value in graph.graph.inputs] == list(inputs)
    feeds = [feed_for(shape, inputs) for shape in SHAPES]
    assert sum(count_apart(run_graph(graph, feed), answer(model, feed)) for feed in feeds) <= FLIPPED_ROWS.value
    feed = feeds[1]
    for name in inputs[2:]:
        other = {**feed, name: np.flip(feed[name], axis=1).copy()}
        assert not np.array_equal(run_graph(graph, other), run_graph(graph, feed)), name
    return traced


@pytest.mark.parametrize("family", QUICK)
def test_segments_and_positions_are_inputs(family: str) -> None:
    check(make_calibrated(TINY_MODELS[family]()), inputs_of(family))


@pytest.mark.long
@pytest.mark.parametrize("family", [family for family in TINY_MODELS if family not in QUICK])
def test_segments_and_positions_are_inputs_in_every_family(family: str) -> None:
    check(make_calibrated(TINY_MODELS[family]()), inputs_of(family))


def test_groups_of_shared_layers(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    model = make_calibrated(tiny_albert(num_hidden_layers=3, num_hidden_groups=2, inner_group_num=2))
    traced = check(model, PAIR[:2])
    ir.save(lower_graph(traced, Lowering(find_target("rtx"), "fp16")), tmp_path / "model.onnx")
    found = audit_engine(
        tmp_path / "model.onnx",
        hardware=("sm_89",),
        shapes=parse_shapes("1x1,8x32,16x64"),
        in_encoder=in_encoder_layer,
    )
    assert (found.float_gemms, found.int8_gemms) == (0, 6 * 6), "six products, three depths of two layers"


def test_positions_are_asked_for_by_a_setting(tmp_path: Path) -> None:
    settings = validate_settings(ExportSettings, {"inputs": ["input_ids", "attention_mask", "position_ids"]}, where="")
    model = make_calibrated(tiny_distilbert())
    folder = export(model, tmp_path / "onnx", target="rtx", precision="fp32", settings=settings).folder
    runner = load_runner(folder, optimized=False)
    assert tuple(runner.inputs) == ("input_ids", "attention_mask", "position_ids")
    with pytest.raises(DataError) as caught:
        measure_accuracy(runner, encode_tiny(4), TASK, pad_token_id=0)
    assert str(caught.value) == (
        "tiny rows has no position_ids, which this artefact takes: score one that was exported without them"
    )


def test_an_input_the_model_does_not_take_is_refused() -> None:
    with pytest.raises(ExportError) as caught:
        trace_model(make_calibrated(tiny_distilbert()), PAIR)
    assert str(caught.value) == (
        "export.inputs names token_type_ids, which DistilBertForSequenceClassification does not take: known: "
        "input_ids, attention_mask, position_ids"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"inputs": ["input_ids"]},
            "Value error, inputs input_ids lack input_ids or attention_mask, which every graph takes",
        ),
        (
            {"inputs": ["input_ids", "attention_mask", "position_ids"], "data": "rows.jsonl"},
            "Value error, data has no position_ids to measure with: leave export.data or that input out",
        ),
    ],
)
def test_inputs_that_cannot_be(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        validate_settings(ExportSettings, values, where="export settings")
    assert str(caught.value) == f"export settings: {message}"
