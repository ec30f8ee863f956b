"""Whether a tokenizer is the one that a model was made with: every token must have the number it was trained as."""

import hashlib
import json
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from qat.errors import CheckpointError


def fingerprint_vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of every token and its number, the same however the tokenizer is stored."""
    tokens = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=True)
    return f"sha256:{hashlib.sha256(tokens.encode()).hexdigest()}"


def require_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, folder: Path, *, fingerprint: object
) -> None:
    """Passes where the tokenizer in a folder belongs to the model there.

    Args:
        tokenizer: the folder's.
        config: the folder's.
        folder: for the error.
        fingerprint: of the tokenizer that the model was exported with; None where nobody wrote it down.

    Raises:
        CheckpointError: it numbers its tokens otherwise, or has more of them than the model has embeddings.
    """
    if fingerprint is not None and fingerprint != fingerprint_vocabulary(tokenizer):
        raise CheckpointError(
            f"the tokenizer in {folder} is not the one that the graph there was exported with, which numbers tokens "
            "otherwise: keep the files of an exported folder together, or export it again"
        )
    known, there = len(tokenizer), int(config.vocab_size)
    if known > there:
        raise CheckpointError(
            f"the tokenizer in {folder} has {known} tokens, the model {there}: they belong to different checkpoints; "
            "put the tokenizer that the model was trained with there"
        )
