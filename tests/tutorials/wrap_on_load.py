"""From a float checkpoint to a trained quantized folder: ``python wrap_on_load.py FLOAT TRAIN.jsonl OUT``.

``quantization_config`` makes ``from_pretrained`` put the quantizers in; some batches of real rows give them ranges.
"""

import sys

import torch
from datasets import load_dataset
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, PreTrainedModel

import qdq


def main(checkpoint: str, data: str, out: str) -> tuple[PreTrainedModel, list[float]]:
    """The trained model and the loss of every step."""
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, quantization_config=qdq.QDQConfig(recipe="tensorrt", target="rtx")
    )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = load_dataset("json", data_files=data, split="train").map(
        lambda row: tokenizer(row["text"], truncation=True) | {"label": model.config.label2id[row["label"]]},
        remove_columns=["text"],
    )
    loader = DataLoader(rows, batch_size=8, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))

    qdq.calibrate(model, loader)

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    losses = []
    model.train()
    for _ in range(5):
        for batch in loader:
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())

    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model, losses


if __name__ == "__main__":
    main(*sys.argv[1:])
