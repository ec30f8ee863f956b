"""The fixtures of ``make_fixtures.py``: loaded by us, compared with what transformers 4 computed and converted."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from qat.checkpoint import Checkpoint, load_whole
from tests.tiny import tiny_tokenizer

FIXTURES = Path(__file__).parent / "fixtures"


def named(kind: str) -> list[str]:
    """The fixtures of a kind: ``flax``, ``tf1``, ``qdqbert``, ``torch``."""
    return sorted(path.name for path in FIXTURES.glob(f"{kind}-*"))


def copy_fixture(name: str, folder: Path) -> Path:
    """A copy of a fixture's checkpoint, with a tokenizer beside it."""
    shutil.copytree(FIXTURES / name, folder, ignore=shutil.ignore_patterns("answers.npz", "expected.json"))
    tiny_tokenizer().save_pretrained(folder)
    return folder


def load_fixture(name: str, folder: Path) -> Checkpoint:
    """The checkpoint as we read it."""
    return load_whole(copy_fixture(name, folder))


def wrong_weights(name: str, model: PreTrainedModel) -> set[str]:
    """The parameters whose values are not transformers 4's own, bit by bit, and those only one side has."""
    expected: dict[str, str] = json.loads((FIXTURES / name / "expected.json").read_text())
    found = {
        key: hashlib.sha256(value.float().contiguous().numpy().tobytes()).hexdigest()[:16]
        for key, value in model.state_dict().items()
        if not key.endswith((".amax", ".gain"))
    }
    # transformers 4 did not list what is tied, 5 does
    tied = {key for key in found if key not in expected and "predictions.decoder" in key}
    return {key for key in found.keys() - tied if found[key] != expected.get(key)} | (expected.keys() - found.keys())


def largest_difference(name: str, model: PreTrainedModel) -> float:
    """Between our answers and transformers 4's, over every output, where the token is not padding."""
    stored = np.load(FIXTURES / name / "answers.npz")
    inputs = {key[3:]: torch.from_numpy(stored[key]) for key in stored.files if key.startswith("in.")}
    with torch.no_grad():
        answers = model(**inputs)
    outputs: dict[str, NDArray[np.float32]] = {key[4:]: stored[key] for key in stored.files if key.startswith("out.")}
    assert outputs.keys() <= set(answers.keys())
    return max(float(np.abs(answers[key].numpy() - value).max()) for key, value in outputs.items())
