"""What every peer promises: rows of each standing, placements that exist, a module that loads without its package."""

from pathlib import Path

import pytest

from benchmarks.peers.job import Job
from benchmarks.peers.modelopt_peer import ModelOptModel
from benchmarks.peers.qdq_peer import BF16
from benchmarks.peers.qdq_peer import PEER as OURS
from benchmarks.peers.roster import OWN, PEERS, keep_usual
from benchmarks.peers.row import FLOAT, Peer
from calibration.settings import CalibrationSettings
from qat.recipe import shipped_recipes

OTHERS = [peer for peer in PEERS.values() if peer.requirements]


@pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.name)
def test_the_recipes_of_a_peer_have_names_of_their_own(peer: Peer) -> None:
    assert len(peer.by_recipe) == len(peer.rows)


@pytest.mark.parametrize("peer", OTHERS, ids=lambda peer: peer.name)
def test_a_peer_stands_there_as_shipped_at_its_best_and_matched(peer: Peer) -> None:
    assert {"as shipped", "best", "matched"} <= {row.standing for row in peer.rows}


@pytest.mark.parametrize("peer", OTHERS, ids=lambda peer: peer.name)
def test_a_matched_row_has_a_placement_of_ours_and_a_row_of_ours_to_meet(peer: Peer) -> None:
    method = CalibrationSettings().method
    ours = {(row.placement, row.weights) for row in OURS.rows if row.recipe.endswith(f" {method}")}

    for row in (each for each in peer.rows if each.standing != "float"):
        assert row.placement in (*shipped_recipes(), "own")
        assert (row.standing == "matched") == (row.placement != "own")
        assert row.standing != "matched" or (row.placement, row.weights) in ours


def test_the_usual_rows_are_of_our_default_method_and_of_their_maximum() -> None:
    usual = {peer.name: [row.recipe for row in peer.rows] for peer in keep_usual(list(PEERS.values()))}

    assert {recipe.split()[-1] for recipe in usual["qdq"]} == {FLOAT, BF16, CalibrationSettings().method}
    assert "linear max" in usual["modelopt"]
    assert not {"linear entropy", "linear mse", "linear percentile"} & set(usual["modelopt"])


def test_we_are_the_peers_that_need_no_environment() -> None:
    assert {"qdq", "qdq-onnxruntime", "qdq-openvino", "qdq-rtx"} == OWN


def test_every_quantizer_of_others_says_what_a_user_writes() -> None:
    assert {peer.home for peer in OTHERS if peer.snippets} == {peer.home for peer in OTHERS}


def test_ours_begin_with_the_float_model_everything_is_compared_with() -> None:
    assert OURS.rows[0].recipe == FLOAT


@pytest.fixture
def modelopt(job: Job, tmp_path: Path) -> ModelOptModel:
    """The tiny BERT in ModelOpt's hands, before anything of ModelOpt is asked for."""
    return ModelOptModel(job, tmp_path)


def test_modelopt_linear_leaves_everything_but_the_linears_of_the_layers_off(modelopt: ModelOptModel) -> None:
    entries = modelopt.list_linear()

    assert {entry["quantizer_name"] for entry in entries if "parent_class" not in entry} == {
        "bert.embeddings.word_embeddings.*",
        "bert.embeddings.position_embeddings.*",
        "bert.embeddings.token_type_embeddings.*",
        "bert.pooler.dense.*",
        "classifier.*",
    }
    assert [entry["parent_class"] for entry in entries if "parent_class" in entry] == ["nn.LayerNorm"]
    assert not any(entry["enable"] for entry in entries)


def test_modelopt_full_quantizes_what_layer_norms_give_and_what_they_do_not_feed(modelopt: ModelOptModel) -> None:
    entries = modelopt.list_full("max")

    on = {entry["quantizer_name"] for entry in entries if entry["enable"]}
    off = {entry["quantizer_name"] for entry in entries if not entry["enable"]}
    assert on == {
        "bert.embeddings.LayerNorm.output_quantizer",
        "bert.encoder.layer.0.attention.output.LayerNorm.output_quantizer",
        "bert.encoder.layer.0.output.LayerNorm.output_quantizer",
        "bert.encoder.layer.1.attention.output.LayerNorm.output_quantizer",
        "*[qkv]_bmm_quantizer",
    }
    for name in ("attention.self.query", "attention.self.key", "attention.self.value", "intermediate.dense"):
        assert f"bert.encoder.layer.1.{name}.input_quantizer" in off
    assert "bert.encoder.layer.1.output.dense.input_quantizer" not in off
