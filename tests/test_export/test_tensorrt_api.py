"""Every name of TensorRT's bindings that the code touches is in each release of 10 and 11, or is asked for first."""

import json

import pytest

from tests.test_export.tensorrt_api import DATA, list_detected, list_touched

RELEASES = json.loads(DATA.read_text(encoding="utf-8"))
OF_RTX = {"IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability"}
"""Set only where targets were found, which takes ``ComputeCapability``."""


def test_the_releases_span_both_majors_and_both_packages() -> None:
    names = [release.split()[0] + " " + release.split()[1].split(".")[0] for release in RELEASES]
    assert set(names) == {f"tensorrt_cu{cuda}_bindings {major}" for cuda in (12, 13) for major in (10, 11)}


def test_the_walk_over_the_source_finds_what_a_build_needs() -> None:
    assert {
        *("Builder.build_serialized_network", "IBuilderConfig.progress_monitor", "ILayer.metadata"),
        *("IBuilderConfig.set_timing_cache", "ILogger.INTERNAL_ERROR", "INetworkDefinition.get_layer"),
        *("NetworkDefinitionCreationFlag.STRONGLY_TYPED", "OnnxParser.parse_from_file", "ParserError.node_name"),
        *("LayerType.MATRIX_MULTIPLY", "module.ComputeCapability", "ProfilingVerbosity.DETAILED", "module.Builder"),
    } <= list_touched()


@pytest.mark.parametrize("release", RELEASES)
def test_what_is_touched_is_there_or_asked_for_first(release: str) -> None:
    present, absent = (set(RELEASES[release][part]) for part in ("present", "absent"))
    touched = list_touched() | list_detected()
    assert touched - present - absent == set(), "run python -m tests.test_export.tensorrt_api again"
    assert touched & absent <= list_detected() | OF_RTX
    assert "module.ComputeCapability" in absent
    assert {"BuilderFlag.VERSION_COMPATIBLE", "BuilderFlag.REFIT"} <= present


def test_rtx_has_what_is_touched() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    missing = [
        name
        for name in list_touched() | list_detected()
        for owner, member in [name.split(".")]
        if not hasattr(trt if owner == "module" else getattr(trt, owner), member)
    ]
    assert missing == []
