"""Engines are built by the real builder, and what it refuses is told with the node."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
from onnx import numpy_helper

from export.audit.build_audit import audit_built
from export.audit.layer_table import read_layer_table, split_profiles
from export.builders import PhaseTree, find_hardware, make_builder, set_features
from export.engine_build import BuiltEngine, EngineSpec, ShapeRange, build_engine, parse_shapes
from export.engine_spec import Feature, parse_profiles
from qat.errors import BuildError, ExportError
from tests.test_export.encoder_graph import encoder_graph, linear_graph, save_graph

pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
DYNAMIC = parse_shapes("1x16,8x128,32x384")


def build(path: Path, shapes: ShapeRange = DYNAMIC, hardware: tuple[str, ...] = ("sm_89",)) -> BuiltEngine:
    return build_engine(path, EngineSpec(builder="rtx", shapes=shapes, hardware=hardware))


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
        "input 'x' has a dynamic axis 'sequenc' that has no range; did you mean 'sequence'? known: batch, past, "
        "past + 1, sequence"
    )
    assert str(caught.value) == expected


def test_an_input_that_is_an_output_as_well_is_refused_by_the_name_it_gets(tmp_path: Path) -> None:
    model = linear_graph()
    model.graph.output.append(model.graph.input[0])
    with pytest.raises(BuildError) as caught:
        build(save_graph(tmp_path, model))
    assert str(caught.value) == "the builder calls an input '__x', which the graph has not; known: x; rename it"


def test_an_input_whose_name_the_builder_reads_in_part_is_refused(tmp_path: Path) -> None:
    model = linear_graph()
    model.graph.node[0].input[0] = model.graph.input[0].name = "x\0y"  # a text ends there in C
    with pytest.raises(BuildError) as caught:
        build(save_graph(tmp_path, model))
    assert str(caught.value) == "the builder calls an input 'x', which the graph has not; known: x\0y; rename it"


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
    assert message.startswith("the builder refuses node 'x_quant/Q' (QuantizeLinear, model layer 'x_quant') of ")
    assert "Non-zero zero point is not supported" in message
    assert message.endswith("export it again with --target rtx or tensorrt")
    assert "\n" not in message


def test_a_graph_that_parses_but_cannot_be_built_is_an_error(tmp_path: Path) -> None:
    model = encoder_graph(layers=1)
    split = next(tensor for tensor in model.graph.initializer if tensor.name == "split")
    split.CopyFrom(numpy_helper.from_array(np.array([2, 3, 4, 16]), "split"))
    path = save_graph(tmp_path, model)
    with pytest.raises(BuildError) as caught:
        build(path)
    message = str(caught.value)
    assert message.startswith(
        f"the rtx builder cannot build {path} at node 'encoder/0/mask' (Add, model layer 'encoder/0'): IBuilder"
    )
    assert "dimensions not compatible for elementwise" in message
    assert message.endswith("; run qdq lint on it")
    assert "\n" not in message


def test_several_profiles_are_in_one_engine_and_cost_their_kernels_each(tmp_path: Path) -> None:
    path = save_graph(tmp_path, encoder_graph(layers=1))
    first, second = parse_profiles("1x1,1x32,1x64;1x1,8x128,32x128")
    spec = EngineSpec(builder="rtx", shapes=first, more_shapes=(second,), hardware=("sm_89",))
    engine = build_engine(path, spec)
    assert engine.layer_table is not None
    profiles = "MinShape: [1,1], OptShape: [1,32], MaxShape: [1,64]", "MinShape: [1,1], OptShape: [8,128]"
    shown = [line for line in engine.layer_table.splitlines() if "input_ids, IOMode" in line]
    assert len(shown) == 1
    assert all(profile in shown[0] for profile in profiles)
    tables = split_profiles(read_layer_table(engine.layer_table), 2)
    assert [table.reason for table in tables] == [None, None]
    assert all(any("encoder/0/up" in layer.name for layer in table.layers) for table in tables)
    assert not any("[profile" in layer.name for table in tables for layer in table.layers)
    audit = audit_built(engine, path, in_encoder=lambda name: name.startswith("encoder"))
    assert (audit.status, audit.int8_gemms, audit.float_gemms, audit.int8_attentions) == ("complete", 4, 0, 1)


def test_a_fixed_shape_in_one_of_two_profiles_stays_a_profile(tmp_path: Path) -> None:
    path = save_graph(tmp_path, linear_graph())
    spec = EngineSpec(
        builder="rtx", shapes=ShapeRange.fixed(1, 8), more_shapes=(ShapeRange.fixed(4, 8),), hardware=("sm_89",)
    )
    table = build_engine(path, spec).layer_table
    assert table is not None
    assert "MinShape: [1,8,64], OptShape: [1,8,64]" in table
    assert "MinShape: [4,8,64], OptShape: [4,8,64]" in table


def test_tables_that_cannot_be_told_apart_are_no_audit(tmp_path: Path) -> None:
    table = read_layer_table(build(save_graph(tmp_path, linear_graph())).layer_table)
    assert [each.reason for each in split_profiles(table, 2)] == ["the layers of 2 profiles cannot be told apart"]


@pytest.mark.parametrize("feature", ["version_compatible", "refittable"])
def test_a_feature_that_the_builder_refuses_is_named(tmp_path: Path, feature: Feature) -> None:
    path = save_graph(tmp_path, encoder_graph(layers=1))
    spec = EngineSpec(builder="rtx", shapes=DYNAMIC, hardware=("sm_89",), features=(feature,))
    with pytest.raises(BuildError) as caught:
        build_engine(path, spec)
    assert str(caught.value).startswith(
        f"the rtx builder cannot build {path} as {feature} (leave that out, if this machine's builder lacks it): IBuild"
    )


def test_features_are_flags_where_the_builder_has_them() -> None:
    flags: list[str] = []
    config = SimpleNamespace(set_flag=flags.append)
    trt = SimpleNamespace(BuilderFlag=SimpleNamespace(REFIT="refit"), __version__="10.0.1")
    set_features(trt, config, EngineSpec(builder="tensorrt", shapes=DYNAMIC, features=("refittable",)))
    assert flags == ["refit"]
    with pytest.raises(BuildError) as caught:
        set_features(trt, config, EngineSpec(builder="tensorrt", shapes=DYNAMIC, features=("version_compatible",)))
    assert str(caught.value) == (
        "feature 'version_compatible' was asked for, but the tensorrt builder 10.0.1 lacks it; "
        "leave it out of build.features, or use another builder"
    )
