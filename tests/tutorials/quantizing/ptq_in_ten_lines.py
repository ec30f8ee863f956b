"""Post-training quantization in ten lines: ``python ptq_in_ten_lines.py FLOAT TRAIN.jsonl OUT``.

``FLOAT`` is a fine-tuned checkpoint that transformers loads, ``TRAIN.jsonl`` has a ``text`` in every row: what such
texts do inside the model says how large each INT8 range has to be. No label is read and nothing is trained.
"""

import sys

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import qdq


def main(checkpoint: str, data: str, out: str) -> str:
    """The engine's path."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    texts = load_dataset("json", data_files=data, split="train")["text"][:512]
    batches = [
        tokenizer(texts[at : at + 32], padding=True, truncation=True, return_tensors="pt")
        for at in range(0, len(texts), 32)
    ]

    qdq.wrap(model, recipe="tensorrt", target="rtx")  # what it returns says of every layer why it is quantized or not
    qdq.calibrate(model, batches)
    qdq.export(model, f"{out}/onnx", tokenizer=tokenizer)
    engine = qdq.build(f"{out}/onnx", f"{out}/model.engine")

    print(
        f"{engine.audit.int8_gemms} products of {engine.path} run in INT8, {engine.audit.float_gemms} should and do not"
    )
    return str(engine.path)


if __name__ == "__main__":
    main(*sys.argv[1:])
