"""A small checkpoint and labelled rows that travel with the package, so that everything runs without a download.

``README.md`` beside this file says what they are and how they were made; the rows come under ``LICENSE-WordNet.txt``.

>>> [path.exists() for path in (CHECKPOINT, TRAIN, VALIDATION)]
[True, True, True]
"""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent

CHECKPOINT = _FOLDER / "albert-supersense"
"""An ALBERT of 6 shared layers, fine-tuned in FP32 to sort dictionary definitions into 45 classes."""

TRAIN = _FOLDER / "supersense" / "train.jsonl"
"""8,192 rows of ``text`` and ``label``, to calibrate and fine-tune on."""

VALIDATION = _FOLDER / "supersense" / "validation.jsonl"
"""2,048 rows of ``text`` and ``label``, to score on."""
