"""Imports point left along the flow, never in a circle, and heavy libraries stay behind their fences."""

import graphlib

from tests.contracts.source_tree import FLOW, Module, imported_names, product_modules

GRAPH_AND_ENGINES = {
    *("onnx", "onnx_ir", "onnxscript", "onnxruntime"),
    *("openvino", "tensorrt", "tensorrt_rtx"),
}
FENCED = {
    "qat": GRAPH_AND_ENGINES,
    "calibration": GRAPH_AND_ENGINES,
}
"""What a package must not import even inside a function: it works where only torch and transformers are installed."""

OF_USERS = "benchmarks.peers.snippets."
"""What users write stands right of everything; the project runs it and imports none of it."""

TEST_TOOLS = {"tests", "pytest", "hypothesis", "_pytest"}


def _top(name: str) -> str:
    return name.partition(".")[0]


def _points_right(module: Module, imported: str) -> bool:
    target = _top(imported)
    return target in FLOW and FLOW.index(target) > FLOW.index(module.package)


def test_imports_point_left_along_the_flow() -> None:
    wrong = [
        f"{module.place}:{line} imports {name}"
        for module in product_modules()
        for name, line in imported_names(module)
        if _points_right(module, name) and not module.name.startswith(OF_USERS)
    ]

    assert wrong == [], f"against the flow {' <- '.join(FLOW)}; take a callable from the caller instead"


def test_no_module_imports_itself_through_others() -> None:
    known = {module.name for module in product_modules()}
    graph = {
        module.name: {
            name if name in known else name.rpartition(".")[0]
            for name, _ in imported_names(module)
            if name in known or name.rpartition(".")[0] in known
        }
        - {module.name}
        for module in product_modules()
    }

    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which lists the circle


def test_left_packages_never_import_graph_or_engine_libraries() -> None:
    wrong = [
        f"{module.place}:{line} imports {name}"
        for module in product_modules()
        for name, line in imported_names(module)
        if _top(name) in FENCED.get(module.package, set())
    ]

    assert wrong == []


def test_the_product_never_imports_its_tests_or_their_tools() -> None:
    wrong = [
        f"{module.place}:{line} imports {name}"
        for module in product_modules()
        for name, line in imported_names(module)
        if _top(name) in TEST_TOOLS
    ]

    assert wrong == []
