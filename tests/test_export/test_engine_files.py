"""An engine on disk: complete, kept while it holds, built again when what it was made from changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

import export.engine_files as files
from export.engine_build import BuiltEngine, EngineSpec, build_engine, parse_shapes
from export.engine_files import Origin, explain_rebuild, manifest_of, read_built, read_origin, table_of, write_engine
from export.gpu import Gpu
from qat.artefacts import hash_file
from qat.errors import CheckpointError, OutputError
from tests.test_export.encoder_graph import linear_graph, save_graph

pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
SPEC = EngineSpec(builder="rtx", shapes=parse_shapes("1x16,8x128,32x384"), hardware=("sm_89",))


def build(path: Path) -> BuiltEngine:
    return build_engine(path, SPEC)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A graph and the engine of it, in one folder."""
    folder = tmp_path_factory.mktemp("written")
    path = save_graph(folder, linear_graph())
    write_engine(build(path), folder / "model.engine", onnx_path=path, facts={})
    return path, folder / "model.engine"


@pytest.fixture
def copied(written: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same in a folder of the test's own."""
    folder = Path(shutil.copytree(written[0].parent, tmp_path / "copied"))
    return folder / "model.onnx", folder / "model.engine"


def test_an_engine_is_written_with_its_table_and_its_manifest(tmp_path: Path) -> None:
    path = save_graph(tmp_path, linear_graph())
    engine, out = build(path), tmp_path / "built" / "model.engine"
    write_engine(engine, out, onnx_path=path, facts={"target": "rtx"})
    assert out.read_bytes() == engine.plan
    assert sorted(file.name for file in out.parent.iterdir()) == [
        "model.engine",
        "model.engine.json",
        "model.engine.layers",
    ]
    assert (out.parent / "model.engine.layers").read_text() == engine.layer_table
    manifest = json.loads((out.parent / "model.engine.json").read_text())
    assert manifest["engine"]["hash"] == hash_file(out)
    assert manifest["inputs"]["model.onnx"]["hash"] == hash_file(path)
    assert manifest["spec"]["shapes"] == {"batch": [1, 8, 32], "sequence": [16, 128, 384]}
    assert manifest["builder"] == {"name": "rtx", "version": engine.version}
    assert manifest["hardware"] == ["sm_89"]
    assert manifest["target"] == "rtx"
    assert manifest["versions"]["onnx"] == onnx.__version__


def test_weights_kept_beside_the_graph_are_built_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(linear_graph(), path, save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
    assert (tmp_path / "model.onnx.data").stat().st_size >= 64 * 128
    write_engine(build(path), tmp_path / "model.engine", onnx_path=path, facts={})
    manifest = json.loads((tmp_path / "model.engine.json").read_text())
    assert manifest["inputs"]["model.onnx.data"]["hash"] == hash_file(tmp_path / "model.onnx.data")


def test_an_engine_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = save_graph(tmp_path, linear_graph())
    (tmp_path / "model.engine").mkdir()
    with pytest.raises(OutputError, match=r"cannot write the file .*model\.engine: a folder of that name exists"):
        write_engine(build(path), tmp_path / "model.engine", onnx_path=path, facts={})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.engine", "model.onnx"]


def test_an_engine_of_the_same_origin_is_kept(copied: tuple[Path, Path]) -> None:
    path, engine = copied
    origin = read_origin(path, SPEC)
    assert explain_rebuild(engine, origin) == ""
    found = read_built(engine, origin)
    assert found.plan == engine.read_bytes()
    assert found.layer_table == table_of(engine).read_text()
    assert (found.spec, found.hardware, found.builder, found.gpu) == (SPEC, ("sm_89",), "rtx", None)
    assert found.seconds > 0


def test_a_changed_graph_or_request_builds_again(copied: tuple[Path, Path]) -> None:
    path, engine = copied
    origin = read_origin(path, SPEC)
    changed = {
        "build setting 'shapes' has changed": replace(origin, spec=replace(SPEC, shapes=parse_shapes("8x128"))),
        "build setting 'hardware' has changed": replace(origin, spec=replace(SPEC, hardware=("sm_86",))),
        "build setting 'more_shapes' has changed": replace(origin, spec=replace(SPEC, more_shapes=(SPEC.shapes,))),
        "build setting 'features' has changed": replace(origin, spec=replace(SPEC, features=("refittable",))),
        f"it was built by rtx {origin.version}, 99.0 is installed": replace(origin, version="99.0"),
        "it was built on a GPU that torch does not see, this is NVIDIA L4 (sm_89)": replace(
            origin, gpu="NVIDIA L4 (sm_89)"
        ),
    }
    assert {reason: explain_rebuild(engine, each) for reason, each in changed.items()} == {
        reason: reason for reason in changed
    }
    onnx.save(linear_graph(("batch",)), path)
    assert explain_rebuild(engine, read_origin(path, SPEC)) == "model.onnx has changed"


def test_an_engine_of_an_unknown_gpu_is_never_kept(copied: tuple[Path, Path]) -> None:
    path, engine = copied
    origin = replace(read_origin(path, SPEC), gpu="a GPU that torch does not see")
    assert explain_rebuild(engine, origin).startswith("it was built on a GPU that torch does not see")


def test_another_qdq_builds_again(copied: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path, engine = copied
    monkeypatch.setattr(files, "installed_versions", lambda: {"qdq": "9.9"})
    assert explain_rebuild(engine, read_origin(path, SPEC)).endswith(", 9.9 is installed")


def test_a_file_that_is_missing_or_does_not_match_builds_again(copied: tuple[Path, Path]) -> None:
    path, engine = copied
    origin = read_origin(path, SPEC)
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-1])
    assert explain_rebuild(engine, origin) == "its file does not match its manifest"
    with pytest.raises(CheckpointError) as caught:
        read_built(engine, origin)
    assert str(caught.value) == (
        f"{engine} is not the engine that model.engine.json describes: it was changed or cut short after it was "
        "built; build it again with qdq build"
    )
    engine.write_bytes(whole)
    table_of(engine).write_text("Layers:")
    assert explain_rebuild(engine, origin) == "its layer table does not match its manifest"
    manifest_of(engine).write_text(json.dumps({"engine": {"hash": hash_file(engine)}}))
    assert explain_rebuild(engine, origin) == "its manifest cannot be read"
    manifest_of(engine).unlink()
    assert explain_rebuild(engine, origin) == "its manifest cannot be read"
    engine.unlink()
    assert explain_rebuild(engine, origin) == "there is none yet"


@pytest.mark.parametrize(
    "damage",
    [{"macs": None}, {"hardware": 5}, {"seconds": "soon"}, {"builder": {"version": "VERSION"}}, {"macs": {"a": []}}],
)
def test_a_manifest_that_lost_what_an_engine_is_described_by_builds_again(
    copied: tuple[Path, Path], damage: dict[str, object]
) -> None:
    path, engine = copied
    origin = read_origin(path, SPEC)
    manifest = json.loads(manifest_of(engine).read_text())
    text = json.dumps(manifest | damage).replace("VERSION", manifest["builder"]["version"])
    manifest_of(engine).write_text(text)
    assert explain_rebuild(engine, origin) == "its manifest cannot be read"


def test_the_origin_of_an_engine_for_this_machine_names_its_gpu(
    copied: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "hardware_names", lambda trt: {})
    monkeypatch.setattr(files, "find_gpu", lambda: Gpu("NVIDIA L4", "sm_89"))
    origin = read_origin(copied[0], SPEC)
    assert isinstance(origin, Origin)
    assert origin.gpu == "NVIDIA L4 (sm_89)"
    monkeypatch.setattr(files, "find_gpu", lambda: None)
    assert read_origin(copied[0], SPEC).gpu == "a GPU that torch does not see"
