"""A repository as Triton reads it: its configuration by Triton's own classes, and every file that goes with it."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no types
from hypothesis import given, settings
from hypothesis import strategies as st

from export.deploy.check import check_repository
from export.deploy.plan import make_plan
from export.deploy.repository import deploy
from export.deploy.settings import DeploySettings, Provider
from export.deploy.source import Source, open_source
from qat.artefacts import read_manifest
from qat.errors import QDQError
from tests.test_export.served import CHOICE, REGRESSION, SERVED, SPANS, TEXT, TOKENS, Served, save_engine, save_exported
from tests.tiny import MAX_LENGTH, tiny_tokenizer

model_config_pb2 = import_module("tritonclient.grpc.model_config_pb2")


def parse(folder: Path) -> Any:
    """The configuration of a model, by the official classes and nothing of ours."""
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def deployed(tmp_path: Path, served: Served = TEXT, **chosen: Any) -> Path:
    exported = save_exported(tmp_path / "onnx", served)
    return deploy(exported, tmp_path / "models", name="served", settings=DeploySettings(**chosen)).folder


def test_the_configuration_of_a_classifier_on_the_cpu(tmp_path: Path) -> None:
    folder = deployed(tmp_path, instances=2, max_batch=16, shapes="1x8,4x16,16x32", queue_delay=500)
    expected = model_config_pb2.ModelConfig(
        name="served",
        backend="onnxruntime",
        platform="onnxruntime_onnx",
        default_model_filename="model.onnx",
        max_batch_size=16,
        input=[{"name": name, "data_type": "TYPE_INT64", "dims": [-1]} for name in ("input_ids", "attention_mask")],
        output=[{"name": "logits", "data_type": "TYPE_FP32", "dims": [3], "label_filename": "labels.txt"}],
        dynamic_batching={"preferred_batch_size": [4, 16], "max_queue_delay_microseconds": 500},
        instance_group=[{"count": 2, "kind": "KIND_CPU"}],
    )
    for rows, tokens in ((1, 8), (4, 16), (16, 32)):
        sample = expected.model_warmup.add(name=f"{rows}x{tokens}", batch_size=rows, count=1)
        for name in ("input_ids", "attention_mask"):
            sample.inputs[name].data_type = model_config_pb2.TYPE_INT64
            sample.inputs[name].dims.append(tokens)
            sample.inputs[name].input_data_file = f"{name}_{tokens}"
    assert parse(folder) == expected


@pytest.mark.parametrize(
    ("served", "inputs", "outputs"),
    [
        pytest.param(TOKENS, [-1], {"logits": [-1, 2]}, id="a label a token"),
        pytest.param(CHOICE, [4, -1], {"logits": [4]}, id="an axis of choices"),
        pytest.param(SPANS, [-1], {"start_logits": [-1], "end_logits": [-1]}, id="two outputs"),
        pytest.param(REGRESSION, [-1], {"logits": [1]}, id="a number"),
    ],
)
def test_every_task_has_the_axes_of_its_graph(
    served: Served, inputs: list[int], outputs: dict[str, list[int]], tmp_path: Path
) -> None:
    config = parse(deployed(tmp_path, served))
    assert [list(each.dims) for each in config.input] == [inputs, inputs]
    assert {each.name: list(each.dims) for each in config.output} == outputs
    assert config.max_batch_size == 32
    (model,) = check_repository(tmp_path / "models")
    assert [each.request for each in model.answered] == ["1x16", f"8x{MAX_LENGTH}", f"32x{MAX_LENGTH}"]


def test_a_graph_of_one_shape_is_served_as_it_is(tmp_path: Path) -> None:
    exported = save_exported(tmp_path / "onnx", shape=(4, 16))
    folder = deploy(exported, tmp_path / "models").folder
    config = parse(folder)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert [list(each.dims) for each in (*config.input, *config.output)] == [[4, 16], [4, 16], [4, 3]]
    (sample,) = config.model_warmup
    assert (sample.batch_size, list(sample.inputs["input_ids"].dims)) == (1, [4, 16])
    (model,) = check_repository(tmp_path / "models")
    assert model.answered[0].shapes == {"logits": (4, 3)}


def test_on_cuda_the_accelerator_is_named(tmp_path: Path) -> None:
    config = parse(deployed(tmp_path, provider="cuda"))
    (added,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (added.name, dict(added.parameters)) == ("cuda", {})
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU


@pytest.mark.parametrize(("target", "provider"), [("rtx", None), ("onnxruntime", "tensorrt")])
def test_tensorrt_is_told_every_shape(target: str, provider: Provider | None, tmp_path: Path) -> None:
    exported = save_exported(tmp_path / "onnx", CHOICE, target=target, precision="fp16")
    chosen = DeploySettings(provider=provider, shapes="1x8,4x16,16x32")
    config = parse(deploy(exported, tmp_path / "models", settings=chosen).folder)
    (added,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert added.name == "tensorrt"
    assert dict(added.parameters) == {
        "precision_mode": "INT8",
        "trt_profile_min_shapes": "input_ids:1x4x1,attention_mask:1x4x1",
        "trt_profile_opt_shapes": "input_ids:4x4x16,attention_mask:4x4x16",
        "trt_profile_max_shapes": "input_ids:16x4x32,attention_mask:16x4x32",
    }


def test_an_engine_takes_its_profiles_tokenizer_and_labels_along(tmp_path: Path) -> None:
    exported = save_exported(tmp_path / "onnx", target="tensorrt")
    engine = save_engine(exported, shapes="1x1,8x16,16x32; 1x33,4x48,8x64")
    folder = deploy(engine, tmp_path / "models", name="served").folder
    config = parse(folder)
    assert (config.backend, config.platform) == ("tensorrt", "tensorrt_plan")
    assert config.default_model_filename == "model.plan"
    assert config.max_batch_size == 8
    (group,) = config.instance_group
    assert (group.kind, list(group.profile)) == (group.KIND_GPU, ["0", "1"])
    assert [sample.name for sample in config.model_warmup] == ["1x33", "4x48", "8x64"]
    assert (folder / "1" / "model.plan").read_bytes() == b"plan"
    assert (folder / "labels.txt").read_text() == "animal\nplant\ntool\n"
    (model,) = check_repository(tmp_path / "models")
    assert (model.answered, model.not_run) == ([], "an engine runs on its GPU only")


def test_every_file_lies_where_the_server_and_its_clients_look(tmp_path: Path) -> None:
    folder = deployed(tmp_path, shapes="2x8")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        *("config.pbtxt", "labels.txt", "qdq.json", "1/model.onnx"),
        *("tokenizer/config.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"),
        *("warmup/input_ids_8", "warmup/attention_mask_8"),
    }
    manifest = read_manifest(folder)
    facts = {name: manifest[name] for name in ("stage", "task", "target", "labels", "max_length")}
    assert facts == {
        "stage": "deploy",
        "task": "text-classification",
        "target": "onnxruntime",
        "labels": 3,
        "max_length": MAX_LENGTH,
    }


def test_external_weights_come_along(tmp_path: Path) -> None:
    exported = save_exported(tmp_path / "onnx")
    graph = onnx.load(exported / "model.onnx")
    onnx.save(graph, exported / "model.onnx", save_as_external_data=True, size_threshold=64, location="model.data")
    folder = deploy(exported, tmp_path / "models").folder
    assert (folder / "1" / "model.data").read_bytes() == (exported / "model.data").read_bytes()
    assert check_repository(tmp_path / "models")[0].answered


def test_the_warm_up_feeds_tokens_the_model_knows(tmp_path: Path) -> None:
    folder = deployed(tmp_path, shapes="2x8")
    ids = np.frombuffer((folder / "warmup" / "input_ids_8").read_bytes(), dtype="<i8")
    mask = np.frombuffer((folder / "warmup" / "attention_mask_8").read_bytes(), dtype="<i8")
    assert ids.shape == mask.shape == (8,)
    assert 0 <= ids.min() < ids.max() < len(tiny_tokenizer())
    assert mask.tolist() == [1] * 8


def test_labels_stand_in_the_order_of_the_logits(tmp_path: Path) -> None:
    assert (deployed(tmp_path, TOKENS) / "labels.txt").read_text() == "O\nB-noun\n"
    assert parse(tmp_path / "models" / "served").output[0].label_filename == ""  # a label a token: not Triton's kind
    assert not (deployed(tmp_path, REGRESSION) / "labels.txt").exists()


def test_deploying_again_replaces_the_model_whole(tmp_path: Path) -> None:
    folder = deployed(tmp_path, shapes="2x8")
    deployed(tmp_path, CHOICE, shapes="2x16")
    assert sorted(path.name for path in (folder / "warmup").iterdir()) == ["attention_mask_16", "input_ids_16"]
    assert not (folder / "labels.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["served"]


def test_the_deployed_graph_is_the_exported_one(tmp_path: Path) -> None:
    folder = deployed(tmp_path)
    sessions = [
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for path in (tmp_path / "onnx" / "model.onnx", folder / "1" / "model.onnx")
    ]
    feed = {name: np.ones((2, 5), dtype=np.int64) for name in ("input_ids", "attention_mask")}
    first, second = (session.run(None, feed)[0] for session in sessions)
    assert np.array_equal(first, second)


def test_a_bf16_graph_is_checked_but_not_run_on_a_cpu(tmp_path: Path) -> None:
    exported = save_exported(tmp_path / "onnx", target="rtx", precision="bf16")
    deploy(exported, tmp_path / "models")
    (model,) = check_repository(tmp_path / "models")
    assert (model.answered, model.not_run) == ([], "ONNX Runtime does not compute BF16 on a CPU")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("sources")
    exported = save_exported(folder / "onnx", target="tensorrt")
    return [open_source(exported), open_source(save_engine(exported, shapes="1x1,8x32,16x64"))]


@settings(max_examples=40)
@given(
    number=st.integers(0, 1),
    max_batch=st.none() | st.integers(1, 64),
    pairs=st.lists(st.tuples(st.integers(1, 64), st.integers(1, 100)), max_size=3),
)
def test_a_plan_is_one_a_server_takes_or_is_refused(
    number: int, max_batch: int | None, pairs: list[tuple[int, int]], sources: list[Source]
) -> None:
    shapes = ",".join(f"{rows}x{tokens}" for rows, tokens in pairs) or None
    source, most = sources[number], (16 if number else 10**6)
    fits = (max_batch or max((rows for rows, _ in pairs), default=1)) <= most
    fits &= all(rows <= (max_batch or most) and tokens <= MAX_LENGTH for rows, tokens in pairs)
    try:
        plan = make_plan(source, DeploySettings(max_batch=max_batch, shapes=shapes))
    except QDQError:
        assert not fits
        return
    assert fits
    assert all(1 <= rows <= plan.max_batch <= most and 1 <= tokens <= MAX_LENGTH for rows, tokens in plan.shapes)
    assert all(1 < rows <= plan.max_batch for rows in plan.preferred)


@pytest.mark.parametrize("name", SERVED)
def test_a_manifest_is_json_and_names_what_it_was_made_from(name: str, tmp_path: Path) -> None:
    folder = deployed(tmp_path, SERVED[name])
    manifest = json.loads((folder / "qdq.json").read_text(encoding="utf-8"))
    exported = tmp_path / "onnx"
    assert manifest["inputs"]["artefact"]["path"] == str(exported)
    assert manifest["inputs"]["artefact"]["hash"] == manifest["model"]["hash"]
    assert len(manifest["interface"]["inputs"]) == 2
