"""Ours in Python: a Q/DQ graph for TensorRT, in the folder ``out``."""

import sys


def quantize(checkpoint: str, data: str, out: str) -> None:
    """The quantized artefact, in ``out``."""
    import json
    from pathlib import Path

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import qdq

    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    texts = [json.loads(line)["text"] for line in Path(data).read_text().splitlines()[:512]]
    batches = [tokenizer(texts[i : i + 32], padding=True, return_tensors="pt") for i in range(0, len(texts), 32)]
    qdq.wrap(model)
    qdq.calibrate(model, batches)
    qdq.export(model, f"{out}/onnx")


if __name__ == "__main__":
    quantize(*sys.argv[1:])
