"""Models that transformers 5 does not build, or another tool calibrated: exported, run and built."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedModel

from export.engine import BuildSettings, build
from export.exported import Lowering, lower_graph, trace_model, write_exported
from export.targets import find_target
from qat.errors import ExportError
from tests.calibrated import make_calibrated
from tests.test_export.tiny_models import count_apart, make_batch, run_graph, run_torch
from tests.test_qat.test_checkpoints.reference import load_fixture, named
from tests.test_qat.test_pruned_heads import make_pruned
from tests.test_qat.test_relative_positions import make_relative
from tests.tiny import tiny_tokenizer
from tests.tolerances import FLIPPED_ROWS

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert, relative_key_query": partial(make_relative, "bert", "relative_key_query"),
    "squeezebert, pruned": partial(make_pruned, "squeezebert"),
    "bert, relative_key": partial(make_relative, "bert", "relative_key"),
    "albert, relative_key": partial(make_relative, "albert", "relative_key"),
    "albert, relative_key_query": partial(make_relative, "albert", "relative_key_query"),
    "bert, pruned": partial(make_pruned, "bert"),
    "albert, pruned": partial(make_pruned, "albert-groups"),
    "convbert, pruned": partial(make_pruned, "convbert"),
}
QUICK = tuple(MODELS)[:2]
SHAPES = ((1, 3), (4, 17), (2, 64))


def check(name: str, folder: Path) -> None:
    """Every target answers as torch does, at any shape; the engine runs every planned GEMM in INT8."""
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    model = make_calibrated(MODELS[name]())
    graph = trace_model(model)
    for target in ("rtx", "onnxruntime", "openvino"):
        lowered = lower_graph(graph, Lowering(find_target(target), "fp32"))
        batches = [make_batch(*shape, seed=5) for shape in SHAPES]
        apart = [count_apart(run_graph(lowered, each), run_torch(model, each)) for each in batches]
        assert sum(apart) <= FLIPPED_ROWS.value, target
    lowering = Lowering(find_target("rtx"), "fp16")
    exported = write_exported(graph, model, folder / "onnx", lowering=lowering, tokenizer=tiny_tokenizer())
    settings = BuildSettings(shapes="1x1,4x16,8x64", hardware=("sm_89",))
    engine = build(exported.folder, folder / "model.engine", settings=settings)
    assert (engine.audit.status, engine.audit.float_gemms) == ("complete", 0)
    assert engine.audit.int8_gemms > 0


@pytest.mark.parametrize("name", [*named("qdqbert"), *named("modelopt")])
def test_imported_ranges_reach_every_target_unchanged(name: str, tmp_path: Path) -> None:
    model = load_fixture(name, tmp_path / "source").model
    graph = trace_model(model)
    chance = np.random.default_rng(0)
    batch = {"input_ids": chance.integers(1, 16, (3, 7)), "attention_mask": np.ones((3, 7), np.int64)}
    for target in ("rtx", "tensorrt", "onnxruntime", "openvino"):
        lowered = lower_graph(graph, Lowering(find_target(target), "fp32"))
        assert count_apart(run_graph(lowered, batch), run_torch(model, batch)) == 0, target
    with pytest.raises(ExportError, match="is no FP16 value and would change: export with --precision fp32, or calib"):
        lower_graph(graph, Lowering(find_target("rtx"), "fp16"))


@pytest.mark.parametrize("name", QUICK)
def test_every_target_takes_it(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in MODELS if name not in QUICK])
def test_every_target_takes_the_others(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)
