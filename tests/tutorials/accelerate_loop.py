"""QAT in a loop of one's own on accelerate: ``accelerate launch accelerate_loop.py CALIBRATED TRAIN.jsonl OUT``.

``CALIBRATED`` is a folder that ``qdq calibrate`` wrote. Several processes, sharded weights and mixed precision are
accelerate's to configure; nothing here changes with them.
"""

import sys

import torch
from accelerate import Accelerator
from datasets import load_dataset
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, PreTrainedModel

import qdq  # noqa: F401  teaches from_pretrained to load quantized folders


def main(calibrated: str, data: str, out: str) -> tuple[PreTrainedModel, list[float]]:
    """The trained model and the loss of every step."""
    accelerator = Accelerator()
    model = AutoModelForSequenceClassification.from_pretrained(calibrated)
    tokenizer = AutoTokenizer.from_pretrained(calibrated)
    rows = load_dataset("json", data_files=data, split="train").map(
        lambda row: tokenizer(row["text"], truncation=True) | {"label": model.config.label2id[row["label"]]},
        remove_columns=["text"],
    )
    loader = DataLoader(rows, batch_size=8, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    losses = []
    model.train()
    for _ in range(5):
        for batch in loader:
            loss = model(**batch).loss
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(accelerator.reduce(loss.detach(), reduction="mean").item())

    # every process takes part: where weights are sharded, each holds a piece of them
    weights = accelerator.get_state_dict(model)
    trained = accelerator.unwrap_model(model)
    trained.save_pretrained(out, is_main_process=accelerator.is_main_process, state_dict=weights)
    if accelerator.is_main_process:
        tokenizer.save_pretrained(out)
    return trained, losses


if __name__ == "__main__":
    main(*sys.argv[1:])
