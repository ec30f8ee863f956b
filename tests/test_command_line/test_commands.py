"""Every command once, end to end on tiny data: what it prints, what it leaves, and its JSON."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qat.artefacts import MANIFEST, read_manifest
from tests.contracts.source_tree import ROOT
from tests.test_command_line.calling import Done, Workspace, call
from tests.test_export.encoder_graph import encoder_graph, save_graph

Journey = tuple[Path, Done]
Chain = tuple[Path, dict[str, Done]]

LADDER = ("fp32", "ptq", "qat", "onnx")
LATENCY = {"runner", "precision", "batch", "sequence", "p50_ms", "p90_ms", "p99_ms", "samples_per_s"}
ENGINE = {
    "target",
    "hardware",
    "kernels",
    "int8_gemms",
    "float_gemms",
    "unplanned_gemms",
    "int8_attentions",
    "int8_mac_share",
    "activation_mb",
    "fp16_activation_mb",
    "audit",
}


def test_run_leaves_every_artefact_and_a_report(journey: Journey) -> None:
    out, done = journey
    assert done.code == 0
    assert {path.name for path in out.iterdir()} == {
        "calibrated",
        "finetuned",
        "onnx",
        "model.engine",
        "model.engine.json",
        "model.engine.layers",
        "report.html",
        "report.json",
    }
    assert [read_manifest(out / name)["stage"] for name in ("calibrated", "finetuned", "onnx")] == [
        "calibrate",
        "finetune",
        "export",
    ]
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert (out / "onnx" / "model.onnx").is_file()


def test_the_report_of_a_run_has_every_figure(journey: Journey) -> None:
    out, done = journey
    report = json.loads((out / "report.json").read_text())
    assert done.value == report
    accuracy = report["accuracy"]
    assert {"metric", "n", *LADDER} <= set(accuracy)
    assert (accuracy["metric"], accuracy["n"]) == ("accuracy", 32)
    assert all(0 <= accuracy[name] <= 1 for name in LADDER)
    assert len(report["latency"]) >= 3
    assert all(set(row) >= LATENCY and row["p50_ms"] > 0 for row in report["latency"])
    assert {(row["runner"], row["precision"]) for row in report["latency"]} == {
        ("torch", "fp32"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8+fp32"),
    }
    engine = report["engine"]
    assert set(engine) >= ENGINE
    assert (engine["target"], engine["float_gemms"], engine["audit"]) == ("rtx", 0, "complete")
    assert engine["int8_gemms"] >= 4 * 2
    assert engine["int8_mac_share"] == 1.0
    assert engine["activation_mb"] > 0
    assert engine["fp16_activation_mb"] > 0
    assert set(report["size_mb"]) == {"fp32", "int8"}
    assert report["settings"]["finetune"]["max_steps"] == 4
    assert "not_finite" not in report


def test_the_report_of_a_run_tells_paired_errors_and_what_harms(journey: Journey) -> None:
    report = json.loads((journey[0] / "report.json").read_text())
    accuracy, sensitivity = report["accuracy"], report["sensitivity"]
    points = {stage: found["points"] for stage, found in accuracy["to_fp32"].items()}
    assert points == pytest.approx({stage: 100 * (accuracy[stage] - accuracy["fp32"]) for stage in LADDER[1:]})
    assert all(found["error"] >= 0 for found in accuracy["to_fp32"].values())
    assert (sensitivity["rows"], sensitivity["metric_name"]) == (8, "accuracy")
    harms = [row["harm"] for row in sensitivity["groups"]]
    assert harms == sorted(harms, reverse=True)
    assert len(harms) > 4


def test_a_run_shows_its_stages_and_a_short_table(journey: Journey) -> None:
    _, done = journey
    stages = [line.removesuffix(" ...") for line in done.err.splitlines()]
    assert [name for name in stages if name in ("calibrate", "fine-tune", "export", "build")] == [
        "calibrate",
        "fine-tune",
        "export",
        "build",
    ]
    table = done.out.splitlines()[:-1]
    assert table[0].rstrip().endswith("report.html")
    assert len(table) < 20


def test_calibrate_reads_the_rows_it_was_told_to(chain: Chain) -> None:
    out, done = chain
    assert (done["calibrate"].code, done["calibrate"].err) == (0, "")
    value = done["calibrate"].value
    assert (value["out"], value["rows"]) == (str(out / "calibrated"), 48)
    assert value["ranges"] == 2 * 8
    config = json.loads((out / "calibrated" / "config.json").read_text())["quantization_config"]
    assert (config["state"], config["target"], config["recipe"]["weights"]) == (
        "calibrated",
        "onnxruntime",
        "per_channel",
    )
    assert "import qdq" in (out / "calibrated" / "README.md").read_text()


def test_finetune_learns_from_a_teacher(chain: Chain) -> None:
    out, done = chain
    assert (done["finetune"].code, done["finetune"].err) == (0, "")
    assert set(done["finetune"].value) == {"out", "steps", "first_loss", "last_loss", "best_step", "held_out", "score"}
    assert done["finetune"].value["steps"] == 2
    assert not list((out / "finetuned").glob("*.bin"))
    assert (out / "finetuned" / "model.safetensors").read_bytes() != (
        out / "calibrated" / "model.safetensors"
    ).read_bytes()


def test_finetune_scores_what_it_leaves(chain: Chain, workspace: Workspace) -> None:
    out, done = chain
    again = call("evaluate", out / "finetuned", "--data", workspace.validation, "--json").value
    assert done["finetune"].value["score"] == {name: again[name] for name in ("metric", "value", "n", "metrics")}


def test_export_takes_the_target_of_the_checkpoint(chain: Chain) -> None:
    out, done = chain
    assert (done["export"].code, done["export"].err) == (0, "")
    size = (out / "onnx" / "model.onnx").stat().st_size
    made = {"out": str(out / "onnx"), "target": "onnxruntime", "precision": "fp32", "shape": None}
    assert done["export"].value == {**made, "bytes": size, "overflow": None}


@pytest.mark.parametrize("artefact", ["finetuned", "onnx", "onnx/model.onnx"])
def test_evaluate_scores_any_artefact(chain: Chain, workspace: Workspace, artefact: str) -> None:
    done = call("evaluate", chain[0] / artefact, "--data", workspace.validation, "--json", "--limit", 16)
    assert (done.code, done.err) == (0, "")
    value = done.value
    assert {name: value[name] for name in ("task", "metric", "n")} == {
        "task": "text-classification",
        "metric": "accuracy",
        "n": 16,
    }
    assert value["value"] * 16 == pytest.approx(round(value["value"] * 16))


def test_benchmark_times_artefacts_side_by_side(chain: Chain) -> None:
    folders = (chain[0] / "finetuned", chain[0] / "onnx")
    done = call("benchmark", *folders, "--shapes", "1x8,2x16", "--seconds", 0.1, "--json")
    assert done.code == 0
    rows = done.value["latency"]
    assert [(row["artefact"], row["runner"], row["batch"], row["sequence"]) for row in rows] == [
        (str(folder), runner, batch, sequence)
        for batch, sequence in ((1, 8), (2, 16))
        for folder, runner in zip(folders, ("torch", "onnxruntime"), strict=True)
    ]
    assert all(row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] for row in rows)


def test_build_and_audit_agree(journey: Journey, tmp_path: Path) -> None:
    command = (
        *("build", journey[0] / "onnx", "--out", tmp_path / "small.engine", "--builder", "rtx"),
        *("--shapes", "1x1,2x8,4x16", "--buckets", "8,16", "--hardware", "sm_89", "--json"),
    )
    built, again = call(*command), call(*command)
    assert (built.code, built.err) == (0, "")
    assert built.value["hardware"] == ["sm_89"]
    assert (built.value["reused"], again.value["reused"]) == (False, True)
    assert f"{tmp_path / 'small.engine'}: built, there is none yet" in built.out
    assert f"{tmp_path / 'small.engine'}: up to date, kept as it is" in again.out
    assert {**again.value, "reused": False} == built.value
    audited = call("audit", tmp_path / "small.engine", "--fail-under", 1, "--json")
    assert (audited.code, audited.err) == (0, "")
    facts = audited.value
    assert facts.pop("convolutions") == []
    assert facts == {name: built.value[name] for name in facts}
    assert audited.value["float_gemms"] == 0
    assert "not planned: no DequantizeLinear feeds it" in audited.out


def test_audit_of_a_folder_for_onnxruntime_reads_its_optimized_graph(chain: Chain) -> None:
    done = call("audit", chain[0] / "onnx", "--json")
    assert (done.code, done.err) == (0, "")
    assert (done.value["int8_gemms"], done.value["float_gemms"]) == (2 * 8, 0)


def test_audit_fails_under_a_share_of_the_planned_products(chain: Chain, tmp_path: Path) -> None:
    enough = call("audit", chain[0] / "onnx", "--fail-under", 1, "--json")
    assert (enough.code, enough.err) == (0, "")
    path = save_graph(tmp_path, encoder_graph(layers=1))
    (tmp_path / MANIFEST).write_text(json.dumps({"target": "onnxruntime"}))
    short = call("audit", path, "--fail-under", 1, "--json")
    assert short.code == 1
    assert short.value["float_gemms"] > 0
    assert short.err.startswith(f"{path}: ")
    assert " of the planned products run in INT8, below --fail-under 1: " in short.err
    assert short.err.count("\n") == 1


def test_audit_tells_what_became_of_convolutions(chain: Chain, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(chain[0] / "onnx", tmp_path / "onnx"))
    rows = [{"module": "layer.0.query", "was": "convolution, kernel 1, 4 groups", "became": "MatMul"}]
    (folder / MANIFEST).write_text(json.dumps({**read_manifest(folder), "convolutions": rows}))
    done = call("audit", folder, "--json")
    assert done.value["convolutions"] == rows
    assert "convolution, kernel 1, 4 groups" in done.out.partition("convolutions\n")[2]


def test_lint_finds_no_error_in_what_export_wrote(journey: Journey, chain: Chain) -> None:
    engine = call("lint", journey[0] / "onnx" / "model.onnx", "--target", "rtx", "--json")
    runtime = call("lint", chain[0] / "onnx" / "model.onnx", "--target", "onnxruntime", "--json")
    assert (engine.code, runtime.code) == (0, 0)
    found = [*engine.value["findings"], *runtime.value["findings"]]
    assert [each for each in found if each["severity"] == "error"] == []


def run_module(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qdq", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_module_runs_in_a_process_of_its_own(chain: Chain, workspace: Workspace) -> None:
    done = run_module("evaluate", chain[0] / "finetuned", "--data", workspace.validation, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    again = call("evaluate", chain[0] / "finetuned", "--data", workspace.validation, "--json")
    assert json.loads(done.stdout.splitlines()[-1]) == again.value


def test_a_mistake_in_a_process_of_its_own_is_one_line_and_code_2(workspace: Workspace, tmp_path: Path) -> None:
    nan = workspace.folder / "nan.jsonl"
    done = run_module(
        "calibrate", workspace.checkpoint, "--task", "text-classification", "--data", nan, "--out", tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"qdq: data file '{nan}' does not exist: ")
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_command_and_its_example() -> None:
    done = call("--help")
    assert done.code == 0
    commands = (
        "run",
        "calibrate",
        "finetune",
        "export",
        "build",
        "audit",
        "lint",
        "evaluate",
        "benchmark",
        "sensitivity",
    )
    assert all(name in done.out for name in commands)
    assert call().out == done.out
    for name in commands:
        shown = call(name, "--help")
        assert (shown.code, shown.err) == (0, "")
        assert f"Example: qdq {name}" in shown.out
        assert "--json" in shown.out


def test_an_interrupt_says_that_nothing_is_half_written(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.commands.evaluate", interrupt)
    done = call("evaluate", workspace.checkpoint, "--data", workspace.validation)
    assert (done.code, done.out) == (130, "")
    assert done.err == "qdq: interrupted; artefacts that were finished are whole, the others were not written\n"
