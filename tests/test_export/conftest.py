"""What the export tests share: models calibrated and traced once, one exported folder and one engine a family."""

import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest

from export.engine import BuildSettings, Engine, build
from export.exported import ExportedModel, Lowering, write_exported
from export.targets import find_target
from tests.test_export.tiny_models import ALBERT, BERT, CONVBERT, DEFAULTS, SQUEEZEBERT, Case, Traced, trace_case
from tests.test_export.traced_decoder import TracedDecoder
from tests.tiny import tiny_tokenizer

Trace = Callable[[Case], Traced]
ExportCase = Callable[[Case], ExportedModel]
BuildCase = Callable[[Case], Engine]


@pytest.fixture(scope="session")
def trace() -> Trace:
    """The function that traces a case, each case once: the workers share what they traced."""
    folder = Path(os.environ["QDQ_TEST_CACHE"]) / "traced"
    folder.mkdir(exist_ok=True)
    return cache(partial(trace_case, folder=folder))


@pytest.fixture(scope="session")
def export_case(trace: Trace, tmp_path_factory: pytest.TempPathFactory) -> ExportCase:
    """The function that writes a case's folder for ``rtx`` in FP16, each once."""

    def write(case: Case) -> ExportedModel:
        out, target = tmp_path_factory.mktemp(case.family) / "onnx", find_target("rtx")
        made = trace(case)
        return write_exported(
            made.graph, made.model, out, lowering=Lowering(target, "fp16"), tokenizer=tiny_tokenizer()
        )

    return cache(write)


@pytest.fixture(scope="session")
def build_case(export_case: ExportCase) -> BuildCase:
    """The function that builds a case's engine beside its folder, each once."""
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    settings = BuildSettings(shapes="1x1,8x32,16x64", hardware=("sm_86", "sm_89", "sm_120"))

    def make(case: Case) -> Engine:
        folder = export_case(case).folder
        return build(folder, folder.parent / "model.engine", settings=settings)

    return cache(make)


@pytest.fixture(scope="session")
def bert(trace: Trace) -> Traced:
    return trace(BERT)


@pytest.fixture(scope="session")
def albert(trace: Trace) -> Traced:
    return trace(ALBERT)


@pytest.fixture(scope="session")
def convbert(trace: Trace) -> Traced:
    return trace(CONVBERT)


@pytest.fixture(scope="session")
def squeezebert(trace: Trace) -> Traced:
    return trace(SQUEEZEBERT)


@pytest.fixture(scope="session")
def decoder() -> TracedDecoder:
    return TracedDecoder.make()


@pytest.fixture(params=DEFAULTS, ids=str)
def traced(request: pytest.FixtureRequest, trace: Trace) -> Traced:
    """The default recipe on each family."""
    return trace(request.param)


@pytest.fixture
def exported(traced: Traced, export_case: ExportCase) -> ExportedModel:
    return export_case(traced.case)


@pytest.fixture
def engine(traced: Traced, build_case: BuildCase) -> Engine:
    return build_case(traced.case)
