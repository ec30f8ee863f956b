"""The audit of a built engine counts what the graph planned, and says what was lost."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from export.audit.build_audit import audit_built, audit_engine, build_twin
from export.audit.engine_audit import EngineAudit, audit_table, unavailable_audit
from export.audit.layer_table import LayerTable, TensorFact, read_layer_table
from export.audit.products import list_products, read_products
from export.engine_build import EngineSpec, build_engine, parse_shapes
from tests.test_export.encoder_graph import HIDDEN, INNER, encoder_graph, linear_graph, save_graph

pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
SHAPES = parse_shapes("1x16,8x128,32x384")
TARGETS = ("sm_86", "sm_89", "sm_120")
LAYERS = 2
TOKENS, LENGTH = 8 * 128, 128
DENSE = TOKENS * HIDDEN * HIDDEN
FFN = TOKENS * HIDDEN * INNER
HALF_ATTENTION = TOKENS * LENGTH * HIDDEN
ENCODER = LAYERS * (4 * DENSE + 2 * FFN + 2 * HALF_ATTENTION)


def in_encoder(name: str) -> bool:
    return name.startswith("encoder/")


def audit(folder: Path, model: onnx.ModelProto, hardware: tuple[str, ...] = TARGETS) -> EngineAudit:
    return audit_engine(save_graph(folder, model), hardware=hardware, shapes=SHAPES, in_encoder=in_encoder)


def gemms(found: EngineAudit) -> tuple[int, int, int]:
    return found.int8_gemms, found.float_gemms, found.unplanned_gemms


def attentions(found: EngineAudit) -> tuple[int, int, int]:
    return found.int8_attentions, found.float_attentions, found.split_attentions


def reasons(found: EngineAudit) -> dict[str, str]:
    return {node: row.reason for row in found.rows for node in row.nodes if row.reason}


@pytest.mark.parametrize("hardware", [("sm_86",), ("sm_89",), ("sm_120",), TARGETS, ()])
def test_a_whole_encoder_is_int8_on_every_target(tmp_path: Path, hardware: tuple[str, ...]) -> None:
    found = audit(tmp_path, encoder_graph(), hardware)
    assert (found.status, found.reason) == ("complete", "")
    assert gemms(found) == (4 * LAYERS, 0, 2)
    assert attentions(found) == (LAYERS, 0, 0)
    assert found.int8_mac_share == 1.0
    assert found.as_planned
    assert reasons(found) == {
        "pooler/MatMul": "not planned: no DequantizeLinear feeds it",
        "classifier/MatMul": "not planned: no DequantizeLinear feeds it",
    }


def test_q_k_and_v_are_one_gemm_and_every_product_has_one_row(tmp_path: Path) -> None:
    model = encoder_graph(layers=1)
    found = audit(tmp_path, model)
    merged = [row for row in found.rows if "encoder/0/q/MatMul" in row.nodes]
    assert [sorted(row.nodes) for row in merged] == [["encoder/0/k/MatMul", "encoder/0/q/MatMul", "encoder/0/v/MatMul"]]
    assert (merged[0].kind, merged[0].dtype, merged[0].planned) == ("gemm", "Int8", True)
    products = [node.name for node in model.graph.node if node.op_type == "MatMul"]
    assert sorted(node for row in found.rows for node in row.nodes) == sorted(products)
    assert [row.kind for row in found.rows if "encoder/0/context" in row.nodes] == ["attention"]


def test_a_graph_without_quantizers_has_nothing_int8_and_nothing_lost(tmp_path: Path) -> None:
    found = audit(tmp_path, encoder_graph(int8=False))
    assert gemms(found) == (0, 0, 4 * LAYERS + 2)
    assert attentions(found) == (0, LAYERS, 0)
    assert found.int8_mac_share == 0.0
    assert not found.as_planned


def test_a_linear_left_float_is_unplanned_and_its_work_is_missing_from_the_share(tmp_path: Path) -> None:
    found = audit(tmp_path, encoder_graph(float_linears=["0/down"]))
    assert gemms(found) == (4 * LAYERS - 1, 0, 3)
    assert attentions(found) == (LAYERS, 0, 0)
    assert found.int8_mac_share == pytest.approx(1 - FFN / ENCODER)
    assert reasons(found)["encoder/0/down/MatMul"] == "not planned: no DequantizeLinear feeds it"
    assert found.as_planned


def test_attention_left_float_is_fused_and_unplanned(tmp_path: Path) -> None:
    found = audit(tmp_path, encoder_graph(quantized=""))
    assert gemms(found) == (4 * LAYERS, 0, 2)
    assert attentions(found) == (0, LAYERS, 0)
    assert found.int8_mac_share == pytest.approx(1 - LAYERS * 2 * HALF_ATTENTION / ENCODER)
    expected = "not planned: fused attention in Half, no DequantizeLinear feeds q, k, v or probs"
    assert reasons(found)["encoder/0/scores"] == reasons(found)["encoder/1/context"] == expected
    assert found.as_planned


def test_q_and_k_alone_lose_the_fused_attention(tmp_path: Path) -> None:
    found = audit(tmp_path, encoder_graph(quantized="qk"))
    assert attentions(found) == (0, 0, LAYERS)
    assert gemms(found) == (5 * LAYERS, 0, LAYERS + 2)
    expected = (
        "not planned: no DequantizeLinear feeds it; attention is not fused: quantize q, k, v and probs, or none of them"
    )
    assert reasons(found)["encoder/0/context"] == expected
    assert not found.as_planned


def test_probs_left_out_make_the_second_product_planned_and_float(tmp_path: Path) -> None:
    found = audit(tmp_path, encoder_graph(quantized="qkv"))
    assert attentions(found) == (0, 0, LAYERS)
    assert gemms(found) == (5 * LAYERS, LAYERS, 2)
    assert reasons(found)["encoder/1/context"].startswith(
        "one operand only is quantized, 'encoder/1/softmax:0' stays Half; attention is not fused"
    )
    assert found.int8_mac_share == pytest.approx(1 - LAYERS * HALF_ATTENTION / ENCODER)
    assert not found.as_planned


def test_a_weight_alone_does_not_make_a_gemm_int8(tmp_path: Path) -> None:
    found = audit(tmp_path, linear_graph(weight_only=True))
    assert gemms(found) == (0, 1, 0)
    assert reasons(found) == {"product": "one operand only is quantized, 'x' stays Half"}


def test_the_kernel_that_scales_the_channels_of_a_gemm_is_not_a_second_gemm(tmp_path: Path) -> None:
    path = save_graph(tmp_path, linear_graph(per_channel=True))
    engine = build_engine(path, EngineSpec(builder="rtx", shapes=SHAPES, hardware=("sm_89",)))
    named = [layer for layer in read_layer_table(engine.layer_table).layers if "product" in layer.metadata]
    found = audit_built(engine, path, in_encoder=lambda name: True)
    assert len(named) == 2
    assert gemms(found) == (1, 0, 0)
    assert found.int8_mac_share == 1.0


def test_nodes_without_names_are_found_under_the_names_the_parser_gives(tmp_path: Path) -> None:
    found = audit(tmp_path, linear_graph(names=False))
    assert gemms(found) == (1, 0, 0)
    assert found.rows[0].nodes == ("node_of_product:0",)


def test_bytes_are_those_of_every_kernel_at_the_fixed_shape(tmp_path: Path) -> None:
    path = save_graph(tmp_path, linear_graph())
    table = read_layer_table(build_twin(path, hardware=("sm_89",), fixed=(4, 32)).layer_table)
    found = audit_engine(path, hardware=("sm_89",), shapes=SHAPES, fixed=(4, 32), in_encoder=in_encoder)
    rows, half = 4 * 32, 2
    quantize = rows * 64 * half + rows * 64
    gemm = rows * 64 + rows * 128 * half
    bias = 2 * rows * 128 * half
    assert [layer.kind for layer in table.layers] == ["kgen", "gemm", "kgen"]
    assert found.activation_mb == pytest.approx((quantize + gemm + bias) / 1e6)
    assert found.weight_mb == pytest.approx(64 * 128 / 1e6, rel=0.1)
    assert found.int8_mac_share is None


def test_int8_moves_fewer_bytes_than_fp16_and_stores_fewer(tmp_path: Path) -> None:
    quantized, plain = audit(tmp_path, encoder_graph()), audit(tmp_path, encoder_graph(int8=False))
    assert quantized.activation_mb is not None
    assert plain.activation_mb is not None
    assert quantized.weight_mb is not None
    assert plain.weight_mb is not None
    assert quantized.activation_mb < plain.activation_mb
    assert quantized.weight_mb < plain.weight_mb


def test_bytes_are_told_for_each_token_hidden_unit_and_layer_beside_the_least(tmp_path: Path) -> None:
    found = audit(tmp_path, encoder_graph())
    assert found.activation_mb is not None
    assert found.layer_bytes is not None
    assert found.layer_bytes_to_least is not None
    assert found.layer_bytes == pytest.approx(found.activation_mb * 1e6 / (TOKENS * HIDDEN * LAYERS))
    assert found.layer_bytes_to_least == pytest.approx(found.layer_bytes - 22)
    assert found.layer_bytes_to_least > 0
    alone = audit(tmp_path, linear_graph())
    assert (alone.layer_bytes, alone.layer_bytes_to_least) == (None, None)


@pytest.mark.parametrize("text", [None, "", "Layers:\nsomething new\n"])
def test_a_missing_or_strange_table_is_unavailable_and_never_a_pass(tmp_path: Path, text: str | None) -> None:
    path = save_graph(tmp_path, encoder_graph(layers=1))
    engine = build_engine(path, EngineSpec(builder="rtx", shapes=SHAPES, hardware=("sm_89",)))
    found = audit_built(replace(engine, layer_table=text), path, in_encoder=in_encoder)
    assert found.status == "unavailable"
    assert found.reason.startswith("audit unavailable: ")
    assert found == unavailable_audit(found.reason.removeprefix("audit unavailable: "))
    assert not found.as_planned


def test_a_table_without_metadata_is_unavailable(tmp_path: Path) -> None:
    path = save_graph(tmp_path, linear_graph())
    table = read_layer_table(build_twin(path, hardware=("sm_89",)).layer_table)
    bare = LayerTable(layers=tuple(replace(layer, metadata=()) for layer in table.layers))
    found = audit_table(read_products(path), bare, twin=table, tokens=1, macs={}, in_encoder=in_encoder)
    assert found == unavailable_audit("the layer table names no ONNX node")


def test_a_planned_product_that_no_kernel_names_counts_as_lost(tmp_path: Path) -> None:
    path = save_graph(tmp_path, linear_graph())
    table = read_layer_table(build_twin(path, hardware=("sm_89",)).layer_table)
    renamed = linear_graph()
    next(node for node in renamed.graph.node if node.name == "product").name = "elsewhere"
    found = audit_table(list_products(renamed), table, twin=table, tokens=1, macs={}, in_encoder=in_encoder)
    assert gemms(found) == (0, 1, 0)
    assert reasons(found) == {"elsewhere": "no kernel of the layer table names this node"}


def test_planned_operands_that_the_engine_keeps_float_are_a_loss_with_its_type(tmp_path: Path) -> None:
    path = save_graph(tmp_path, linear_graph())
    table = read_layer_table(build_twin(path, hardware=("sm_89",)).layer_table)

    def widen(facts: tuple[TensorFact, ...]) -> tuple[TensorFact, ...]:
        return tuple(replace(fact, dtype="Half" if fact.dtype == "Int8" else fact.dtype) for fact in facts)

    layers = tuple(
        replace(layer, inputs=widen(layer.inputs), constants=widen(layer.constants)) for layer in table.layers
    )
    found = audit_table(
        read_products(path), LayerTable(layers=layers), twin=table, tokens=1, macs={}, in_encoder=in_encoder
    )
    assert gemms(found) == (0, 1, 0)
    assert reasons(found) == {"product": "every operand is quantized but the engine runs it in Half"}
    assert not found.as_planned


def test_a_twin_without_a_table_leaves_the_counts_and_says_what_is_missing(tmp_path: Path) -> None:
    path = save_graph(tmp_path, linear_graph())
    table = read_layer_table(build_twin(path, hardware=("sm_89",)).layer_table)
    found = audit_table(
        read_products(path), table, twin=read_layer_table(None), tokens=1, macs={}, in_encoder=in_encoder
    )
    assert (found.status, found.reason) == ("complete", "no bytes: the builder printed no layer table")
    assert (found.activation_mb, found.weight_mb) == (None, None)
    assert gemms(found) == (1, 0, 0)


def test_attentions_are_paired_through_mask_scale_and_quantizers() -> None:
    assert list_products(encoder_graph()).attentions == (
        ("encoder/0/scores", "encoder/0/context"),
        ("encoder/1/scores", "encoder/1/context"),
    )
    assert list_products(linear_graph()).attentions == ()
