"""QAT in a plain PyTorch loop: ``python torch_loop.py CALIBRATED TRAIN.jsonl OUT``.

``CALIBRATED`` is a folder that ``qdq calibrate`` wrote; from here on it is a torch module like any other.
"""

import sys

import torch
from datasets import load_dataset
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, PreTrainedModel

import qdq  # noqa: F401  teaches from_pretrained to load quantized folders


def main(calibrated: str, data: str, out: str) -> tuple[PreTrainedModel, list[float]]:
    """The trained model and the loss of every step."""
    model = AutoModelForSequenceClassification.from_pretrained(calibrated)
    tokenizer = AutoTokenizer.from_pretrained(calibrated)
    rows = load_dataset("json", data_files=data, split="train").map(
        lambda row: tokenizer(row["text"], truncation=True) | {"label": model.config.label2id[row["label"]]},
        remove_columns=["text"],
    )
    loader = DataLoader(rows, batch_size=8, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5 * len(loader))

    losses = []
    model.train()
    for _ in range(5):
        for batch in loader:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())

    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model, losses


if __name__ == "__main__":
    main(*sys.argv[1:])
