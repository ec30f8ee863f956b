"""From a Flax ALBERT to an engine: ``python flax_albert_to_engine.py FLAX TRAIN.jsonl OUT``.

``FLAX`` holds ``flax_model.msgpack``, which transformers 5 no longer reads; JAX need not be installed. Its layers share
their weights: each weight is quantized once, and what passes through it has a range of its own at every depth.
"""

import sys

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import qdq


def main(flax: str, data: str, out: str) -> tuple[str, float]:
    """The engine's path, and the accuracy of its graph on the rows."""
    # 1. an ordinary Hugging Face folder, every value accounted for
    read = qdq.convert(flax, f"{out}/float", task="text-classification")
    print(f"{read['values']:,} values of a {read['format']} checkpoint")

    # 2. quantizers in place, and ranges from real rows
    model = AutoModelForSequenceClassification.from_pretrained(f"{out}/float")
    tokenizer = AutoTokenizer.from_pretrained(f"{out}/float")
    rows = load_dataset("json", data_files=data, split="train")
    batches = [
        tokenizer(rows["text"][at : at + 32], padding=True, truncation=True, return_tensors="pt")
        for at in range(0, min(len(rows), 512), 32)
    ]
    qdq.wrap(model)
    found = qdq.calibrate(model, batches)
    for each in found.found[:3]:
        print(f"depth {each.depth}: {each.name} reaches {each.amax:.3g}")

    # 3. a Q/DQ graph, what it scores, and its engine
    qdq.export(model, f"{out}/onnx", tokenizer=tokenizer)
    score = qdq.evaluate(f"{out}/onnx", data, task="text-classification")
    print(f"{score.metric} {score.value:.4f} on {score.n} rows")
    engine = qdq.build(f"{out}/onnx", f"{out}/model.engine")
    return str(engine.path), score.value


if __name__ == "__main__":
    main(*sys.argv[1:])
