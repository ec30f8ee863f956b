"""Folders exported for one shape: every planned product in INT8 on every engine, other shapes padded or refused."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import qdq
from export.audit.engine_audit import EngineAudit
from export.commands import read_export_settings
from export.engine import BuildSettings, audit
from export.exported import ExportedModel, Lowering, export, write_exported
from export.graph_file import read_fixed_shape
from export.lint import lint
from export.runners.base import AlwaysOpen, Arrays
from export.runners.load import load_runner
from export.runners.padded_runner import PaddedRunner, pad_to_shape
from export.settings import ExportSettings
from export.targets import find_target
from qat.artefacts import read_manifest
from qat.errors import BuildError, DataError, ExportError, RecipeError
from qat.recipe import validate_settings
from tests.test_export.conftest import Trace
from tests.test_export.test_openvino import CASES, FLOAT_PRODUCTS, FULL
from tests.test_export.tiny_models import BERT, SQUEEZEBERT, Case, Traced, make_batch, make_calibrated
from tests.tiny import tiny_tokenizer

SHAPE = (4, 16)


def write(traced: Traced, out: Path, target: str, *, shape: tuple[int, int] | None = SHAPE) -> ExportedModel:
    chosen = find_target(target)
    lowering = Lowering(chosen, chosen.default_precision, settings=ExportSettings(shape=shape))
    return write_exported(traced.graph, traced.model, out, lowering=lowering, tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", [FULL, *(pytest.param(each, marks=pytest.mark.long) for each in CASES[1:])], ids=str)
def test_runtimes_compute_every_planned_product_in_int8(case: Case, target: str, trace: Trace, tmp_path: Path) -> None:
    shapes = {"fixed": SHAPE, "any": None}
    folders = [write(trace(case), tmp_path / name, target, shape=shape).folder for name, shape in shapes.items()]
    found = [audit(folder) for folder in folders]
    lost = FLOAT_PRODUCTS * case.layers if target == "openvino" and case.recipe == "tensorrt" else 0
    assert [each.float_gemms for each in found] == [lost, lost]
    assert found[0].int8_gemms == found[1].int8_gemms > 0
    assert lint(folders[0] / "model.onnx", target=target).findings == ()


@pytest.mark.parametrize("case", [BERT, pytest.param(SQUEEZEBERT, marks=pytest.mark.long)], ids=str)
def test_an_engine_of_one_shape_has_the_kernels_of_the_dynamic_one_s_twin(
    case: Case, trace: Trace, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    fixed = audit(write(trace(case), tmp_path / "fixed", "rtx").folder)
    twin = audit(write(trace(case), tmp_path / "any", "rtx", shape=None).folder, settings=BuildSettings(shapes="4x16"))
    assert isinstance(fixed, EngineAudit)
    assert isinstance(twin, EngineAudit)
    assert (fixed.float_gemms, fixed.int8_gemms) == (0, twin.int8_gemms)
    assert (fixed.kernels, fixed.activation_mb) == (twin.kernels, twin.activation_mb)


def test_the_public_export_takes_the_shape_as_text_and_the_manifest_says_it(tmp_path: Path) -> None:
    made = qdq.export(
        make_calibrated(Case("bert", "linear", "per_channel", shallow=True)),
        tmp_path / "onnx",
        settings=read_export_settings(None, ["export.shape=4x16"]),
    )
    assert made.shape == read_fixed_shape(made.onnx_path) == SHAPE
    settings = read_manifest(made.folder)["settings"]
    assert isinstance(settings, dict)
    assert settings["shape"] == list(SHAPE)
    assert sorted(path.name for path in made.folder.iterdir()) == ["config.json", "model.onnx", "qdq.json"]


@pytest.mark.parametrize("given", ["8by128", "8x", "0x16"])
def test_what_is_no_shape_is_refused_with_the_form_expected(given: str) -> None:
    with pytest.raises(
        RecipeError,
        match=r"^export settings: shape.*: (Value error, expected BATCHxSEQUENCE, two whole "
        r"numbers above 0, as in 8x128|Input should be greater than 0) \(",
    ):
        validate_settings(ExportSettings, {"shape": given}, where="export settings")


def test_a_sequence_that_the_model_does_not_take_is_refused(bert: Traced, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export(bert.model, tmp_path / "onnx", settings=ExportSettings(shape=(8, 1024)))
    assert str(caught.value) == (
        "export.shape 8x1024 has 1024 tokens a row, but the model takes 64: give a sequence of up to 64"
    )


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_runner_refuses_another_shape_with_its_own(bert: Traced, tmp_path: Path, target: str) -> None:
    runner = load_runner(write(bert, tmp_path / "onnx", target).folder, threads=1)
    assert set(runner.inputs.values()) == {SHAPE}
    with runner, pytest.raises(DataError) as caught:
        runner.infer(dict(make_batch(2, 16)))
    assert str(caught.value) == (
        f"{target} was given input_ids of shape 2x16, but the graph takes 4x16: "
        "feed that shape (qdq evaluate pads to it), or export again without export.shape"
    )


def test_an_engine_of_another_shape_is_refused(bert: Traced, tmp_path: Path) -> None:
    folder = write(bert, tmp_path / "onnx", "rtx").folder
    with pytest.raises(BuildError) as caught:
        audit(folder, settings=BuildSettings(shapes="1x1,8x32"))
    assert str(caught.value) == (
        "shapes 1x1,8x32 were asked for, but the graph was exported for 4x16 alone: "
        "use --shapes 4x16, or export it again without export.shape"
    )
    assert BuildSettings(shapes="4x16").spec_for("rtx", fixed=SHAPE) == BuildSettings().spec_for("rtx", fixed=SHAPE)


def test_evaluation_pads_to_the_shape_and_gives_the_same_metric(bert: Traced, tmp_path: Path) -> None:
    rows = [{"text": "ba " * (1 + n % 5), "label": n % 3} for n in range(9)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folders = [write(bert, tmp_path / str(shape), "onnxruntime", shape=shape).folder for shape in (SHAPE, None)]
    fixed, dynamic = (qdq.evaluate(folder, data) for folder in folders)
    assert fixed.metrics == dynamic.metrics
    fixed_labels, labels = ([said["label"] for said in qdq.predict(folder, rows)] for folder in folders)
    assert fixed_labels == labels


class Echo(AlwaysOpen):
    """A runner of one shape that answers with what it was fed."""

    def __init__(self) -> None:
        self.name, self.precision = "echo", "fp32"
        self.inputs: Mapping[str, tuple[int | str, ...]] = dict.fromkeys(("input_ids", "attention_mask"), (2, 4))

    def infer(self, feed: Mapping[str, NDArray[np.generic]]) -> Arrays:
        return {"tokens": feed["input_ids"], "mask": feed["attention_mask"], "rows": feed["input_ids"]}


def test_rows_and_tokens_are_padded_and_cut_again() -> None:
    runner = PaddedRunner(Echo(), token_outputs=("tokens",), pad_token_id=9)
    ids = np.arange(1, 10).reshape(3, 3)
    with runner:
        found = runner.infer({"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert np.array_equal(found["tokens"], ids)
        assert found["rows"].tolist() == [[1, 2, 3, 9], [4, 5, 6, 9], [7, 8, 9, 9]]
        assert found["mask"].tolist() == [[1, 1, 1, 0]] * 3
        with pytest.raises(DataError) as caught:
            runner.infer({"input_ids": np.ones((1, 5)), "attention_mask": np.ones((1, 5))})
    assert str(caught.value) == (
        "rows of 5 tokens were given, but the graph takes 4: cut them with --max-length 4, or export again with a "
        "longer export.shape"
    )


def test_only_a_folder_that_names_its_token_outputs_is_padded(tmp_path: Path) -> None:
    runner = Echo()
    assert pad_to_shape(runner, tmp_path, pad_token_id=0) is runner
    (tmp_path / "qdq.json").write_text('{"token_outputs": []}', encoding="utf-8")
    assert isinstance(pad_to_shape(runner, tmp_path, pad_token_id=0), PaddedRunner)
