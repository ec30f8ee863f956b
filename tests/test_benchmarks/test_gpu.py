"""``make gpu``: a clear end where there is no GPU, and the whole of it with what stands in for one."""

import json
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.command_line import run
from benchmarks.gpu_command import app
from export.gpu import Gpu
from export.runners.base import Runner
from export.runners.load import load_runner
from qat.errors import BuildError
from tests.contracts.source_tree import ROOT
from tests.test_command_line.calling import make_workspace


def test_without_a_gpu_it_ends_with_code_2_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.gpu_parts.find_gpu", lambda: None)
    monkeypatch.setattr("torch.__version__", "2.13.0+cpu")
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr("sys.argv", ["gpu"])
    with pytest.raises(SystemExit) as left:
        run(app, "python -m benchmarks.gpu", default=())
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        "qdq: this needs an NVIDIA GPU, and torch 2.13.0+cpu finds none on this machine: run it where there is one; if "
        "there is one here, run make clean, then make gpu, which installs torch with CUDA\n"
    )


def test_make_says_so_before_it_installs_anything() -> None:
    command = ["make", "--no-print-directory", "gpu", "NVIDIA="]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == (
        "make gpu: no NVIDIA GPU on this machine (no nvidia-smi): run it where there is one"
    )


def test_without_a_builder_the_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_parts.find_gpu", lambda: Gpu("Stand-in", "sm_89"))
    monkeypatch.setattr("benchmarks.gpu_parts.find_spec", lambda name: None)
    with pytest.raises(BuildError) as caught:
        typer.main.get_command(app).main([], standalone_mode=False)
    assert str(caught.value) == (
        "no engine builder is installed: pip install 'qdq[tensorrt]', or 'qdq[rtx]' for GeForce and RTX cards"
    )


@pytest.mark.long
def test_everything_is_measured_and_what_fails_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the builder of the tests: pip install 'qdq[rtx]'")
    work, out = make_workspace(tmp_path), tmp_path / "gpu"

    def open_graph(engine: Path, precision: str) -> Runner:
        """The graph that an engine was built from, on ONNX Runtime."""
        return load_runner(out / engine.stem.removeprefix("rtx-"))

    monkeypatch.setattr("benchmarks.gpu_parts.find_gpu", lambda: Gpu("Stand-in 1", "sm_89"))
    monkeypatch.setattr("benchmarks.gpu_parts.TensorRtRunner", open_graph)
    monkeypatch.setattr("benchmarks.gpu_parts._BUILDERS", {"rtx": "tensorrt_rtx"})
    monkeypatch.setattr("benchmarks.gpu_parts.measure_kernels", lambda device, rounds: {"rounds": rounds})
    arguments = ["--checkpoint", work.checkpoint, "--data", work.train, "--eval", work.validation, "--out", out]
    monkeypatch.setattr("benchmarks.gpu_parts.time_steps", _refuse)
    done = CliRunner().invoke(app, [*map(str, arguments), "--texts", "32", "--seconds", "0.1", "--rounds", "1"])
    assert done.exit_code == 1, done.output
    (place,) = out.glob("gpu-stand-in-1_*.json")
    found = json.loads(place.read_text(encoding="utf-8"))
    assert found["gpu"] == "Stand-in 1 (sm_89)"
    engines = found["rtx engines"]
    assert engines["rows"] == 32
    assert engines["int8"]["audit"]["int8_gemms"] > 0 == engines["fp16"]["audit"]["int8_gemms"]
    assert engines["int8"]["same_as_fake_quantization"] >= 0.9
    assert {row["engine"] for row in engines["latency"]} == {"int8", "fp16"}
    assert found["fused kernels"] == {"rounds": 1}
    assert found["QAT step"]["error"] == "no memory left"


def _refuse(*given: object, **named: object) -> object:
    raise RuntimeError("no memory left")
