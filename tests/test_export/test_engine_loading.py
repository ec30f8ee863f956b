"""An engine that this machine cannot run is refused before it is loaded, with what it was built for."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import export.engine_loading as loading
from export.engine_files import manifest_of
from export.engine_loading import list_profiles, require_runnable
from export.engine_spec import parse_profiles
from export.gpu import Gpu, find_gpu
from export.runners.artefact import open_artefact
from export.runners.load import load_runner
from qat.artefacts import hash_file
from qat.errors import BuildError, CheckpointError

L4 = Gpu("NVIDIA L4", "sm_89")


def write(folder: Path, **facts: Any) -> Path:
    """An engine file with a manifest of these facts."""
    engine = folder / "model.engine"
    engine.write_bytes(b"engine")
    spec = {"shapes": {"batch": [1, 1, 8], "sequence": [1, 32, 64]}, "more_shapes": [], "features": []}
    manifest: dict[str, Any] = {
        "engine": {"hash": hash_file(engine)},
        "builder": {"name": "rtx", "version": "1.7.1"},
        "hardware": ["sm_86", "sm_89"],
        "gpu": None,
        **facts,
    }
    manifest["spec"] = spec | facts.get("spec", {})
    manifest_of(engine).write_text(json.dumps(manifest))
    return engine


def use(monkeypatch: pytest.MonkeyPatch, *, gpu: Gpu | None = L4, version: str = "1.7.1") -> None:
    monkeypatch.setattr(loading, "find_gpu", lambda: gpu)
    monkeypatch.setattr(loading, "load_builder", lambda name: SimpleNamespace(__version__=version))


def refusal(path: Path) -> str:
    with pytest.raises(BuildError) as caught:
        require_runnable(path)
    return str(caught.value)


def test_an_engine_of_this_machine_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    assert require_runnable(write(tmp_path))["hardware"] == ["sm_86", "sm_89"]
    assert require_runnable(write(tmp_path, hardware=["portable"]))["hardware"] == ["portable"]
    assert require_runnable(write(tmp_path, hardware=["current"], gpu=str(L4)))["gpu"] == "NVIDIA L4 (sm_89)"


def test_without_a_gpu_no_engine_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, gpu=None)
    path = write(tmp_path)
    assert refusal(path) == (
        f"{path} runs on an NVIDIA GPU (sm_86, sm_89), and torch finds none on this machine: give the exported folder, "
        "which runs anywhere"
    )
    with pytest.raises(BuildError, match="torch finds none on this machine"):
        load_runner(path)


def test_another_gpu_is_named_with_what_to_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, gpu=Gpu("NVIDIA H200", "sm_90"))
    path = write(tmp_path)
    assert refusal(path) == (
        f"{path} was built for sm_86, sm_89, but this machine's GPU is NVIDIA H200 (sm_90): build it again here with "
        "--hardware sm_90"
    )
    path = write(tmp_path, hardware=["current"], gpu=str(L4))
    assert refusal(path) == (
        f"{path} was built for NVIDIA L4 (sm_89), but this machine's GPU is NVIDIA H200 (sm_90): build it again here"
    )


@pytest.mark.parametrize("features", [[], ["refittable"]])
def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: list[str]) -> None:
    use(monkeypatch, version="1.8.0")
    path = write(tmp_path, spec={"features": features})
    assert refusal(path) == (
        f"{path} was built by rtx 1.7.1, but 1.8.0 is installed: install that version, or build it again with qdq build"
    )


@pytest.mark.parametrize("version", ["1.8.0", "1.7.1"])
def test_a_version_compatible_engine_runs_on_later_ones_of_its_major(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    use(monkeypatch, version=version)
    assert require_runnable(write(tmp_path, spec={"features": ["version_compatible"]}))["gpu"] is None


@pytest.mark.parametrize("version", ["1.7.0", "2.0.0"])
def test_a_version_compatible_engine_runs_on_no_earlier_one_and_no_other_major(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    use(monkeypatch, version=version)
    assert f"but {version} is installed" in refusal(write(tmp_path, spec={"features": ["version_compatible"]}))


def test_a_corrupted_engine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    path = write(tmp_path)
    path.write_bytes(b"engin")
    with pytest.raises(
        CheckpointError, match=r"model\.engine is not the engine that model\.engine\.json describes: it"
    ):
        load_runner(path)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"engine": {"hash": "x"}}'])
def test_an_engine_without_its_manifest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    use(monkeypatch)
    path = write(tmp_path)
    manifest_of(path).unlink()
    if content is not None:
        manifest_of(path).write_text(content.replace("x", hash_file(path)))
    with pytest.raises(CheckpointError) as caught:
        require_runnable(path)
    assert str(caught.value) == (
        f"{path} has no model.engine.json beside it that says what it was built for: keep the two together, or build "
        "it again with qdq build"
    )


def test_the_profiles_of_a_manifest_are_those_it_was_built_with(tmp_path: Path) -> None:
    first, second = parse_profiles("1x1,8x64;1x1,8x128")
    spec = {"shapes": first.axes(), "more_shapes": [second.axes()], "features": []}
    manifest = json.loads(manifest_of(write(tmp_path, spec=spec)).read_text())
    assert list_profiles(manifest) == (first, second)


def test_no_gpu_is_found_where_torch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert find_gpu() is None
    properties = SimpleNamespace(name="NVIDIA L4", major=8, minor=9)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: properties)
    assert find_gpu() == L4


@pytest.mark.parametrize("inputs", [None, 5, {}, {"model.onnx": 5}, {"model.onnx": {"path": 3, "hash": "x"}}])
def test_an_engine_whose_manifest_names_no_graph(
    inputs: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    engine = write(tmp_path, inputs=inputs)
    with pytest.raises(CheckpointError) as caught:
        open_artefact(engine, task="text-classification")
    assert str(caught.value) == f"the manifest of {engine} names no graph it was built from: build it again"


@pytest.mark.parametrize(
    "facts", [{"builder": 5}, {"spec": {"shapes": 3, "features": []}}, {"hardware": [5]}, {"gpu": {"a": 1}}]
)
def test_a_manifest_of_wrong_values(facts: dict[str, Any], tmp_path: Path) -> None:
    engine = write(tmp_path, **facts)
    with pytest.raises(CheckpointError, match=r"has no model.engine.json beside it that says what it was built for"):
        require_runnable(engine)
