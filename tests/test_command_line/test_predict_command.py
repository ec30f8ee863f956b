"""``qdq predict`` from the command line: a line a row, whole files or none, mistakes in one line."""

import json
from pathlib import Path

from tests.test_command_line.calling import Done, Workspace, call, list_tree, write_rows

TASK = ("--task", "text-classification")


def refuse(workspace: Workspace, *arguments: object) -> str:
    before = list_tree(workspace.folder)
    done = call("predict", workspace.checkpoint, *TASK, *arguments)
    assert (done.code, done.out) == (2, "")
    assert list_tree(workspace.folder) == before
    return done.err


def test_texts_are_answered_a_line_each(workspace: Workspace) -> None:
    done = call("predict", workspace.checkpoint, *TASK, "--text", "ba du", "--text", "fi", "--top", 2, "--json")
    first, second, last = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert [set(json.loads(line)) for line in (first, second)] == [{"label", "score", "top"}] * 2
    assert json.loads(last) == {
        "artefact": str(workspace.checkpoint), "task": "text-classification", "n": 2, "truncated": 0, "out": None
    }  # fmt: skip


def test_a_file_is_answered_into_a_file(
    workspace: Workspace, chain: tuple[Path, dict[str, Done]], tmp_path: Path
) -> None:
    out, onnx = tmp_path / "answers.jsonl", chain[0] / "onnx"
    done = call("predict", onnx, "--data", workspace.validation, "--out", out, "--goal", "throughput", "--json")
    assert (done.code, done.value["n"], done.value["out"]) == (0, 32, str(out))
    told = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in workspace.validation.read_text(encoding="utf-8").splitlines()]
    evaluated = call("evaluate", onnx, "--data", workspace.validation, "--json").value
    right = sum(each["label"] == row["label"] for each, row in zip(told, rows, strict=True))
    assert right == round(evaluated["value"] * 32)


def test_what_was_cut_is_said(workspace: Workspace) -> None:
    done = call("predict", workspace.checkpoint, *TASK, "--text", "ba du fi", "--max-length", 4)
    assert done.err == "1 rows were longer than the model takes and lost their end\n"


def test_a_wrong_row_leaves_no_file(workspace: Workspace, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"text": "ba"}, {"text": " "}])
    message = refuse(workspace, "--data", data, "--out", workspace.folder / "answers.jsonl")
    assert message == f"qdq: {data}, row 2: column 'text' is an empty text; expected at least one word\n"


def test_one_of_data_and_text_is_needed(workspace: Workspace) -> None:
    said = "qdq: --data and --text say what to answer, and {} given: give one of the two\n"
    assert refuse(workspace) == said.format("none was")
    assert refuse(workspace, "--text", "ba", "--data", workspace.validation) == said.format("both were")


def test_an_unknown_provider_is_one_line(workspace: Workspace, chain: tuple[Path, dict[str, Done]]) -> None:
    done = call("predict", chain[0] / "onnx", "--text", "ba", "--provider", "CUDDA")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("qdq: ONNX Runtime knows no provider 'CUDDA': did you mean 'CUDA'? known: ")
