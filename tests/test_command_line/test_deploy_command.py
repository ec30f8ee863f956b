"""``qdq deploy``: what it writes and prints, and how its mistakes end."""

from pathlib import Path

import pytest

from tests.test_command_line.calling import call, list_tree
from tests.test_export.served import save_engine, save_exported


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return save_exported(tmp_path / "supersense")


def test_deployed_and_checked(tmp_path: Path, exported: Path) -> None:
    repository = tmp_path / "models"
    done = call("deploy", exported, "--triton", repository, "--instances", 2, "--shapes", "1x8,4x16", "--json")
    assert done.code == 0, done.err
    assert done.value == {
        "out": str(repository / "supersense"),
        "backend": "onnxruntime",
        "provider": "cpu",
        "instances": 2,
        "max_batch": 4,
        "shapes": [[1, 8], [4, 16]],
        "queue_delay": 1000,
        "profiles": 0,
    }
    checked = call("deploy", "--check", repository, "--json")
    assert checked.code == 0, checked.err
    assert "1 models checked, graphs run once on ONNX Runtime's cpu provider" in checked.out
    answered = [{"request": "1x8", "shapes": {"logits": [1, 3]}}, {"request": "4x16", "shapes": {"logits": [4, 3]}}]
    model = {"name": "supersense", "backend": "onnxruntime", "answered": answered, "not_run": ""}
    assert checked.value == {"repository": str(repository), "provider": "cpu", "models": [model]}


def test_an_engine_is_said_not_to_have_been_run(tmp_path: Path, exported: Path) -> None:
    engine = save_engine(exported)
    assert call("deploy", engine, "--triton", tmp_path / "models").code == 0
    done = call("deploy", "--check", tmp_path / "models")
    assert "an engine runs on its GPU only" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ("{d}/supersense",),
            "expected an artefact and where to deploy it: qdq deploy EXPORTED_FOLDER --triton REPOSITORY, or qdq "
            "deploy --check REPOSITORY",
            id="no repository",
        ),
        pytest.param(
            ("{d}/supersense", "--check", "{d}/models"),
            "--check reads a repository that is there: give no artefact and no --triton with it",
            id="both",
        ),
        pytest.param(
            ("--check", "{d}/models"),
            "no model repository at {d}/models: give a folder that qdq deploy --triton wrote",
            id="nothing to check",
        ),
        pytest.param(
            ("--check", "{d}/supersense", "--provider", "cdua"),
            "--provider 'cdua' is none of ONNX Runtime's here: did you mean 'cuda'? known: cpu, cuda, tensorrt",
            id="a provider misspelled",
        ),
        pytest.param(
            ("{d}/supersense", "--triton", "{d}/models", "--backend", "tensort"),
            "deploy settings: backend: Input should be 'onnxruntime' or 'tensorrt' ('tensort' given)",
            id="a backend misspelled",
        ),
        pytest.param(
            ("{d}/supersense", "--triton", "{d}/models", "--shapes", "8by128"),
            "--shapes entry '8by128' is no shape; expected one to three BATCHxSEQUENCE entries such as "
            "1x16,8x128,32x384",
            id="no shapes",
        ),
        pytest.param(
            ("{d}/supersense", "--triton", "{d}/supersense/config.json"),
            "cannot write {d}/supersense/config.json/supersense: File exists ({d}/supersense/config.json); choose "
            "another --out",
            id="a file for a repository",
        ),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    arguments: tuple[str, ...], message: str, tmp_path: Path, exported: Path
) -> None:
    before = list_tree(tmp_path)
    done = call("deploy", *(each.format(d=tmp_path) for each in arguments))
    assert (done.code, done.out) == (2, "")
    assert done.err == f"qdq: {message.format(d=tmp_path)}\n"
    assert list_tree(tmp_path) == before
