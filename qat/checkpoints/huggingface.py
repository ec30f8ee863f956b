"""Hugging Face's own folders: ``config.json`` beside safetensors or PyTorch weights, whole or in shards."""

from qat.checkpoints.base import CheckpointFormat, read_json_config

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What transformers looks for, in its order."""

HUGGINGFACE = CheckpointFormat(
    name="huggingface",
    files="config.json and model.safetensors or pytorch_model.bin, whole or in shards",
    recognize=lambda place: any((place / name).is_file() for name in WEIGHT_FILES),
    read_config=lambda place: read_json_config(place / "config.json"),
)
