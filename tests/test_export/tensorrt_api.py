"""What TensorRT's Python bindings offer, release by release, read from the wheels themselves.

    python -m tests.test_export.tensorrt_api FOLDER      # of tensorrt_cu12_bindings and tensorrt_cu13_bindings wheels

writes ``tensorrt_api.json`` beside this file: of the names that the export package touches, those that each release has
and those that it lacks. The wheels hold the bindings only; the libraries behind them are stood in for by an empty one
that a C compiler makes, which is enough to import the module and list its classes.
"""

import ast
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import export
from export import builders

DATA = Path(__file__).with_name("tensorrt_api.json")
_SOURCES = ("builders", "engine_build", "timing_cache", "multiplies", "build_errors", "engine_files")
_OWNERS = {
    "trt": "module", "builder": "Builder", "config": "IBuilderConfig", "network": "INetworkDefinition",
    "parser": "OnnxParser", "first": "ParserError", "profile": "IOptimizationProfile", "tensor": "ITensor",
    "layer": "ILayer",
}  # fmt: skip
_CONVOLUTION = ("num_groups", "kernel_size_nd")
_UNSEEN = {
    *("ITimingCache.serialize", "ILogger.log", "IProgressMonitor.phase_start", "IProgressMonitor.step_complete"),
    *("IProgressMonitor.phase_finish", "IConvolutionLayer.num_groups", "IConvolutionLayer.kernel_size_nd"),
}
"""What the walk over the source cannot tell: methods that we override, and those of values without a name."""

_SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry"),
    *("getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins", "_ZGTtdlPv", "_ZGTtnam"),
)
_LIBRARIES = ("nvonnxparser", "nvinfer_plugin", "nvinfer")
_LIST = """
import importlib.machinery, importlib.util, json, sys
loader = importlib.machinery.ExtensionFileLoader("tensorrt_bindings.tensorrt", sys.argv[1])
spec = importlib.util.spec_from_file_location(loader.name, sys.argv[1], loader=loader)
module = importlib.util.module_from_spec(spec)
loader.exec_module(module)
members = lambda owner: sorted(name for name in dir(owner) if not name.startswith("_"))
found = {name: members(module if name == "module" else getattr(module, name, None)) for name in sys.argv[2:]}
print(json.dumps({name: names for name, names in found.items() if names}))
"""


def list_touched() -> set[str]:
    """Every ``Class.member`` of the bindings that the export package names, ``module.`` for what lies at the top."""
    found = set(_UNSEEN)
    for name in _SOURCES:
        tree = ast.parse((Path(export.__path__[0]) / f"{name}.py").read_text(encoding="utf-8"))
        found.update(touched for node in ast.walk(tree) if (touched := _read_access(node)) is not None)
    return {each for each in found if ".__" not in each}


def list_detected() -> set[str]:
    """Those that the package asks for by attribute before it uses them."""
    flags = {f"BuilderFlag.{name}" for name in builders._FLAGS.values()}
    return flags | {"module.ComputeCapability", "NetworkDefinitionCreationFlag.STRONGLY_TYPED"}


def _read_access(node: ast.AST) -> str | None:
    """The member that a node names: ``owner.member``, ``trt.Class.member`` or ``getattr(trt, "member", default)``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        member = node.args[1]
        named = isinstance(member, ast.Constant) and isinstance(member.value, str)
        return f"{_name_owner(node.args[0])}.{ast.literal_eval(member)}" if named else None
    if not isinstance(node, ast.Attribute):
        return None
    owner = _name_owner(node.value)
    return None if owner is None or (owner == "ILayer" and node.attr in _CONVOLUTION) else f"{owner}.{node.attr}"


def _name_owner(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return _OWNERS.get(node.id)
    is_class = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trt"
    return node.attr if is_class and isinstance(node, ast.Attribute) else None


def list_members(wheel: Path, stand_ins: Path) -> dict[str, list[str]]:
    """The public members of every class, by class, of the bindings in a wheel."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        module = archive.extract("tensorrt_bindings/tensorrt.so", folder)
        classes = sorted({name.partition(".")[0] for name in list_touched() | list_detected()})
        command = [sys.executable, "-c", _LIST, module, *classes]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(stand_ins)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def make_stand_ins(folder: Path) -> None:
    """Empty libraries under the names that the bindings of TensorRT 10 and 11 link to."""
    source = "\n".join(f"void *{name}(void) {{ return 0; }}" for name in _SYMBOLS)
    for library in _LIBRARIES:
        for major in (10, 11):
            name = f"lib{library}.so.{major}"
            command = ["cc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-x", "c", "-", "-o", str(folder / name)]
            subprocess.run(command, input=source, text=True, check=True)


def main(folder: Path) -> None:
    """Writes the data file from every wheel below ``folder``."""
    releases: dict[str, dict[str, list[str]]] = {}
    with tempfile.TemporaryDirectory() as stand_ins:
        make_stand_ins(Path(stand_ins))
        for wheel in sorted(folder.rglob("tensorrt_cu1*_bindings-*.whl")):
            package, version = wheel.name.split("-")[:2]
            members = list_members(wheel, Path(stand_ins))
            present = {f"{owner}.{name}" for owner, names in members.items() for name in names}
            touched = list_touched() | list_detected()
            releases[f"{package} {version}"] = {
                "present": sorted(touched & present),
                "absent": sorted(touched - present),
            }
    DATA.write_text(json.dumps(releases, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
