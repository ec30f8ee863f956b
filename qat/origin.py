"""What an artefact was made from, told so that the same origin means the same artefact, and kept in its manifest."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from transformers import PreTrainedModel

from qat.artefacts import explain_damage, installed_versions, read_manifest
from qat.checkpoint import Checkpoint
from qat.tasks.base import Feature
from qat.vocabulary import fingerprint_vocabulary

Origin = Mapping[str, object]
"""By what it is: a hash, or settings as JSON values."""

_OF_THE_PLACE = ("_name_or_path", "transformers_version")


def digest_model(model: PreTrainedModel) -> str:
    """A hash of a model's weights, ranges and configuration, the same wherever it was loaded from."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    config = json.loads(model.config.to_json_string(use_diff=False))
    kept = {name: value for name, value in config.items() if name not in _OF_THE_PLACE}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    return digest.hexdigest()


class RowDigest:
    """A hash of encoded rows, in their order, that is told some at a time."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, rows: Iterable[Feature]) -> None:
        """Takes in the next rows."""
        for row in rows:
            self._digest.update(json.dumps(dict(row), sort_keys=True).encode() + b"\n")

    def hexdigest(self) -> str:
        """The hash of all rows so far."""
        return self._digest.hexdigest()


def digest_rows(rows: Iterable[Feature]) -> str:
    """A hash of encoded rows, in their order.

    >>> digest_rows([{"input_ids": [2, 5, 3]}]) == digest_rows([{"input_ids": [2, 3, 5]}])
    False
    """
    digest = RowDigest()
    digest.update(rows)
    return digest.hexdigest()


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, str]:
    """What a stage takes from the checkpoint it starts from."""
    return {"checkpoint": digest_model(checkpoint.model), "vocabulary": fingerprint_vocabulary(checkpoint.tokenizer)}


def explain_remake(folder: Path, origin: Origin) -> str:
    """Why the artefact in a folder cannot stand for one of that origin made here; empty where it can."""
    if not folder.exists():
        return "there is none yet"
    manifest = read_manifest(folder)
    before = manifest.get("origin")
    if not isinstance(before, dict):
        return "its manifest does not say what it was made from"
    wanted = json.loads(json.dumps(origin))
    changed = sorted(name for name in {*wanted, *before} if wanted.get(name) != before.get(name))
    if changed:
        return f"{' and '.join(changed)} changed"
    if manifest.get("versions") != installed_versions():
        return "other versions are installed"
    return explain_damage(folder)
