"""A folder stands for what would be made only if its manifest says it was made from the same, and it is whole."""

import json
from pathlib import Path

import pytest
import torch

from qat.artefacts import MANIFEST, atomic_folder, explain_damage, write_manifest
from qat.origin import digest_model, digest_rows, explain_remake
from tests.calibrated import encode_tiny, make_calibrated
from tests.tiny import tiny_bert

ORIGIN = {"checkpoint": "abc", "settings": {"steps": 4, "shapes": (1, 2)}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with atomic_folder(tmp_path / "out") as staging:
        (staging / "deep").mkdir()
        (staging / "deep" / "weights").write_bytes(b"1")
        (staging / "config").write_bytes(b"2")
        write_manifest(staging, stage="finetune", inputs={}, facts={"origin": ORIGIN})
    return tmp_path / "out"


def change_manifest(folder: Path, **changed: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_the_same_origin_and_whole_files(folder: Path) -> None:
    assert explain_remake(folder, ORIGIN) == ""
    (folder / "put there later").write_text("by hand")
    assert explain_remake(folder, ORIGIN) == ""


def test_no_folder(tmp_path: Path) -> None:
    assert explain_remake(tmp_path / "out", ORIGIN) == "there is none yet"


def test_another_origin(folder: Path) -> None:
    assert explain_remake(folder, ORIGIN | {"checkpoint": "abd"}) == "checkpoint changed"
    other = {"settings": {"steps": 5}, "checkpoint": "abc", "teacher": None}
    assert explain_remake(folder, other) == "settings changed"
    assert explain_remake(folder, other | {"teacher": "t"}) == "settings and teacher changed"


def test_other_versions(folder: Path) -> None:
    change_manifest(folder, versions={"torch": "1.0"})
    assert explain_remake(folder, ORIGIN) == "other versions are installed"


@pytest.mark.parametrize("origin", [None, [], "abc"])
def test_a_manifest_that_says_nothing_of_it(folder: Path, origin: object) -> None:
    change_manifest(folder, origin=origin)
    assert explain_remake(folder, ORIGIN) == "its manifest does not say what it was made from"


def test_files_that_were_changed(folder: Path) -> None:
    (folder / "deep" / "weights").write_bytes(b"3")
    assert explain_remake(folder, ORIGIN) == "deep/weights was changed after it was written"
    (folder / "deep" / "weights").unlink()
    assert explain_damage(folder) == "deep/weights was changed after it was written"
    change_manifest(folder, files=None)
    assert explain_damage(folder) == "it has no qdq.json that names its files"


def test_a_model_is_its_weights_and_its_configuration_wherever_it_lies() -> None:
    model = tiny_bert()
    known = digest_model(model)
    model.config.name_or_path = "elsewhere"
    assert digest_model(model) == known == digest_model(tiny_bert())
    model.config.layer_norm_eps *= 2
    assert digest_model(model) != known
    other = tiny_bert()
    with torch.no_grad():
        other.get_parameter("classifier.bias")[0] += 1e-6
    assert digest_model(other) != known
    assert digest_model(make_calibrated(tiny_bert())) == digest_model(make_calibrated(tiny_bert())) != known


def test_rows_are_what_is_in_them_and_their_order() -> None:
    rows = encode_tiny(4, seed=1)
    assert digest_rows(rows) == digest_rows(encode_tiny(4, seed=1))
    assert digest_rows(rows) != digest_rows(rows.pick([1, 0, 2, 3]))
    assert digest_rows(rows) != digest_rows(rows.pick([0, 1, 2]))
