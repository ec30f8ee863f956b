"""What became of every convolution, as the lowered graph holds it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from export.convolutions import list_convolutions, read_convolutions
from export.exported import Lowering, lower_graph, trace_model, write_exported
from export.targets import find_target
from qat.artefacts import MANIFEST
from tests.calibrated import make_calibrated
from tests.tiny import tiny_bert, tiny_convbert, tiny_squeezebert


def became_of(make: Callable[[], object], target: str) -> dict[str, tuple[str, str]]:
    model = make_calibrated(make(), target=target)  # type: ignore[arg-type]
    traced = trace_model(model)
    chosen = find_target(target)
    lowered = lower_graph(traced, Lowering(chosen, chosen.default_precision))
    return {each.module: (each.was, each.became) for each in list_convolutions(traced, lowered)}


def test_convbert_has_sums_and_matmuls_in_their_place() -> None:
    found = became_of(tiny_convbert, "rtx")
    inner = "convbert.encoder.layer.0.attention.self"
    kernel = tiny_convbert().config.conv_kernel_size
    assert found[f"{inner}.key_conv_attn_layer.depthwise"] == (
        f"depthwise convolution, kernel {kernel}",
        f"sum of {kernel} products",
    )
    assert found[f"{inner}.key_conv_attn_layer.pointwise"] == ("convolution, kernel 1, 1 group", "MatMul")
    assert found[inner] == ("span convolution: a kernel for each token", f"sum of {kernel} products")


def test_squeezebert_has_matmuls() -> None:
    found = became_of(tiny_squeezebert, "rtx")
    layer = "transformer.encoder.layers.0"
    groups = tiny_squeezebert().config.q_groups
    assert found[f"{layer}.attention.query"] == (f"convolution, kernel 1, {groups} groups", "MatMul")
    assert found[f"{layer}.post_attention.conv1d"] == ("convolution, kernel 1, 1 group", "MatMul")


def test_a_scale_a_channel_makes_one_matmul_a_group() -> None:
    found = became_of(tiny_squeezebert, "onnxruntime")
    groups = tiny_squeezebert().config.q_groups
    assert found["transformer.encoder.layers.0.attention.query"][1] == f"{groups} MatMul nodes"


def test_a_bert_has_none() -> None:
    assert became_of(tiny_bert, "rtx") == {}


def test_the_manifest_of_an_export_keeps_them(tmp_path: Path) -> None:
    model = make_calibrated(tiny_squeezebert())
    lowering = Lowering(find_target("rtx"), "fp16")
    exported = write_exported(trace_model(model), model, tmp_path / "onnx", lowering=lowering, tokenizer=None)
    stored = read_convolutions(exported.folder)
    assert stored == read_convolutions(exported.onnx_path)
    assert {row["became"] for row in stored} == {"MatMul"}


@pytest.mark.parametrize("text", ["{}", '{"convolutions": 3}', '{"convolutions": ["x"]}', "not JSON"])
def test_a_manifest_that_says_nothing_is_no_convolution(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    assert read_convolutions(tmp_path) == []
