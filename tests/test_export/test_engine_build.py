"""Engines are built by the real builder, and what it refuses is told with the node."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from export.builders import PhaseTree, find_hardware, make_builder
from export.engine_build import BuiltEngine, EngineSpec, ShapeRange, build_engine, parse_shapes, write_engine
from qat.artefacts import hash_file
from qat.errors import BuildError, ExportError, OutputError
from tests.test_export.encoder_graph import encoder_graph, linear_graph, save_graph

pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
DYNAMIC = parse_shapes("1x16,8x128,32x384")


def build(path: Path, shapes: ShapeRange = DYNAMIC, hardware: tuple[str, ...] = ("sm_89",)) -> BuiltEngine:
    return build_engine(path, EngineSpec(builder="rtx", shapes=shapes, hardware=hardware))


def test_three_entries_are_smallest_usual_and_largest_in_any_order() -> None:
    expected = ShapeRange(batch=(1, 8, 32), sequence=(16, 128, 384))
    assert parse_shapes("1x16,8x128,32x384") == expected
    assert parse_shapes(" 32X384 , 1x16,8x128") == expected


def test_one_entry_is_static_and_two_make_the_larger_the_usual() -> None:
    assert parse_shapes("8x128") == ShapeRange.fixed(8, 128)
    assert parse_shapes("8x128").static
    assert parse_shapes("1x16,8x128") == ShapeRange(batch=(1, 8, 8), sequence=(16, 128, 128))
    assert not parse_shapes("1x16,1x128").static


@given(st.lists(st.tuples(st.integers(1, 512), st.integers(1, 512)), min_size=1, max_size=3))
def test_every_entry_lies_inside_the_range_it_makes(entries: list[tuple[int, int]]) -> None:
    shapes = parse_shapes(",".join(f"{batch}x{sequence}" for batch, sequence in entries))
    assert all(shapes.batch[0] <= batch <= shapes.batch[2] for batch, _ in entries)
    assert all(shapes.sequence[0] <= sequence <= shapes.sequence[2] for _, sequence in entries)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8*128", "--shapes entry '8*128' is no shape; expected one to three BATCHxSEQUENCE entries such as 1x16"),
        ("", "--shapes entry '' is no shape"),
        ("8x128,", "--shapes entry '' is no shape"),
        ("0x128", "--shapes entry '0x128' has a size of 0"),
        ("1x1,2x2,3x3,4x4", "--shapes '1x1,2x2,3x3,4x4' has 4 entries; expected one to three"),
    ],
)
def test_a_shape_that_makes_no_sense_is_named(text: str, message: str) -> None:
    with pytest.raises(BuildError) as caught:
        parse_shapes(text)
    assert str(caught.value).startswith(message)


def test_sizes_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(BuildError, match=r"batch sizes \(8, 1, 32\) were given; expected \(smallest, usual, largest\)"):
        ShapeRange(batch=(8, 1, 32), sequence=(16, 128, 384))


def test_sizes_beyond_32_bits_are_refused() -> None:
    with pytest.raises(BuildError, match=r"sequence sizes .* were given; expected .*, from 1 to 2147483647"):
        parse_shapes("1x2147483648")


def test_a_dynamic_engine_carries_its_plan_its_table_and_its_target(tmp_path: Path) -> None:
    engine = build(save_graph(tmp_path, encoder_graph()), hardware=("sm_86", "sm_89", "sm_120"))
    assert len(engine.plan) > 100_000
    assert engine.layer_table is not None
    assert engine.layer_table.startswith("Layers:")
    for name in ("input_ids", "attention_mask"):
        profile = "MinShape: [1,16], OptShape: [8,128], MaxShape: [32,384]"
        assert any(name in line and profile in line for line in engine.layer_table.splitlines())
    assert (engine.builder, engine.hardware) == ("rtx", ("sm_86", "sm_89", "sm_120"))
    assert engine.version.split(".")[0].isdigit()
    assert engine.seconds > 0
    assert engine.macs == {}


def test_a_static_engine_has_no_dynamic_axis_and_knows_its_work(tmp_path: Path) -> None:
    engine = build(save_graph(tmp_path, linear_graph()), ShapeRange.fixed(8, 16))
    assert engine.layer_table is not None
    assert "-1" not in engine.layer_table
    assert engine.macs == {"product": 8 * 16 * 64 * 128}


def test_without_a_target_the_plan_is_portable(tmp_path: Path) -> None:
    assert build(save_graph(tmp_path, linear_graph()), hardware=()).hardware == ("portable",)


def test_the_logger_of_the_process_keeps_builds_apart(tmp_path: Path) -> None:
    path = save_graph(tmp_path, encoder_graph(layers=1))
    large = build(path).layer_table
    save_graph(tmp_path, linear_graph())
    small = build(path).layer_table
    assert large is not None
    assert small is not None
    assert "encoder/0/softmax" in large
    assert "encoder" not in small


def test_progress_rises_to_the_end_and_never_falls(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    spec = EngineSpec(builder="rtx", shapes=DYNAMIC, hardware=("sm_89",))
    build_engine(save_graph(tmp_path, linear_graph()), spec, progress=lambda phase, share: seen.append((phase, share)))
    shares = [share for _, share in seen]
    assert len(seen) > 5
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.5 < shares[-1] <= 1
    assert "Building engine" in {phase for phase, _ in seen}


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ZeroDivisionError])
def test_what_progress_raises_stops_the_build_and_reaches_the_caller(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    def interrupt(phase: str, share: float) -> None:
        raise failure(phase)

    path = save_graph(tmp_path, linear_graph())
    with pytest.raises(failure):
        build_engine(path, EngineSpec(builder="rtx", shapes=DYNAMIC, hardware=("sm_89",)), progress=interrupt)
    assert build(path).plan


def test_a_cancelled_phase_leaves_the_share_where_it_was() -> None:
    tree = PhaseTree()
    tree.start("all", None, 2)
    assert tree.step("all", 0) == 0.5
    tree.start("part", "all", 10)
    assert tree.step("part", 0) == 0.55
    tree.finish("part")
    assert tree.step("all", 1) == 1.0


@pytest.mark.parametrize(("name", "module"), [("rtx", "tensorrt_rtx"), ("tensorrt", "tensorrt")])
def test_a_builder_that_is_not_installed_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Literal["rtx", "tensorrt"], module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BuildError) as caught:
        build_engine(save_graph(tmp_path, linear_graph()), EngineSpec(builder=name, shapes=DYNAMIC))
    assert str(caught.value).startswith(f"the {name} builder needs the package {module}, which cannot be imported")
    assert str(caught.value).endswith(f"install it: pip install 'qdq[{name}]'")


def test_an_unknown_builder_is_named(tmp_path: Path) -> None:
    spec = EngineSpec(builder="tensort", shapes=DYNAMIC)  # type: ignore[arg-type]
    with pytest.raises(BuildError, match=r"unknown builder 'tensort'; did you mean 'tensorrt'\? known: rtx, tensorrt"):
        build_engine(save_graph(tmp_path, linear_graph()), spec)


def test_hardware_that_the_builder_lacks_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        BuildError, match=r"^hardware 'sm_90' is no target of the rtx builder; did you mean 'sm_.*known:"
    ):
        build(save_graph(tmp_path, linear_graph()), hardware=("sm_89", "sm_90"))


def test_hardware_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="hardware sm_89, sm_89 names a target twice; name each once"):
        build(save_graph(tmp_path, linear_graph()), hardware=("sm_89", "sm_89"))


def test_hardware_for_a_builder_that_builds_for_this_machine_only_is_refused() -> None:
    with pytest.raises(BuildError) as caught:
        find_hardware(SimpleNamespace(), "tensorrt", ("sm_89", "sm_90"))
    assert str(caught.value) == (
        "hardware sm_89, sm_90 was given, but the tensorrt builder builds for this machine's GPU only; "
        "leave --hardware out, or use --builder rtx"
    )
    assert find_hardware(SimpleNamespace(), "tensorrt", ()) == []


def test_a_builder_that_finds_no_driver_says_what_it_needs() -> None:
    def start(logger: object) -> None:
        raise TypeError("pybind11::init():\n factory function returned nullptr")

    with pytest.raises(BuildError) as caught:
        make_builder(SimpleNamespace(Builder=start), None, "tensorrt")
    assert str(caught.value) == (
        "the tensorrt builder cannot start on this machine (pybind11::init(): factory function returned nullptr); "
        "it needs an NVIDIA GPU and driver; --builder rtx builds without one"
    )


def test_an_axis_without_a_range_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        build(save_graph(tmp_path, linear_graph(("batch", "sequenc"))))
    expected = (
        "input 'x' has a dynamic axis 'sequenc' that has no range; did you mean 'sequence'? known: batch, sequence"
    )
    assert str(caught.value) == expected


def test_an_input_of_one_axis_and_a_fixed_axis_need_no_range_of_their_own(tmp_path: Path) -> None:
    assert build(save_graph(tmp_path, linear_graph(("batch",)))).plan
    assert build(save_graph(tmp_path, linear_graph(("batch", 7)))).plan


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"nothing\.onnx is no ONNX file; give the model\.onnx of an exported folder"):
        build(tmp_path / "nothing.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph at all")
    with pytest.raises(ExportError, match=r"broken\.onnx cannot be read as ONNX"):
        build(broken)
    broken.write_bytes(b"")
    with pytest.raises(ExportError, match=r"broken\.onnx holds no ONNX graph; export it again"):
        build(broken)


def test_a_node_that_the_parser_refuses_is_named_in_one_line(tmp_path: Path) -> None:
    model = linear_graph()
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "zero")
    zero.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), "zero"))
    with pytest.raises(BuildError) as caught:
        build(save_graph(tmp_path, model))
    message = str(caught.value)
    assert message.startswith("the builder refuses node 'x_quant/Q' (QuantizeLinear) of ")
    assert "Non-zero zero point is not supported" in message
    assert message.endswith("export it again with --target rtx or tensorrt")
    assert "\n" not in message


def test_a_graph_that_parses_but_cannot_be_built_is_an_error(tmp_path: Path) -> None:
    model = encoder_graph(layers=1)
    split = next(tensor for tensor in model.graph.initializer if tensor.name == "split")
    split.CopyFrom(numpy_helper.from_array(np.array([2, 3, 4, 16]), "split"))
    with pytest.raises(BuildError, match=r"^the rtx builder cannot build .*model\.onnx: .*; run qdq lint on it$"):
        build(save_graph(tmp_path, model))


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
