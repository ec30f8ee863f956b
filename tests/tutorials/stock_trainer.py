"""QAT with the stock Trainer: ``python stock_trainer.py CALIBRATED TRAIN.jsonl OUT``.

``CALIBRATED`` is a folder that ``qdq calibrate`` wrote. With ``import qdq`` it loads like any other checkpoint, and
what is saved is a quantized folder again, for ``from_pretrained``, ``qdq evaluate`` and ``qdq export``.
"""

import sys

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, Trainer, TrainingArguments

import qdq  # noqa: F401  teaches from_pretrained to load quantized folders


def main(calibrated: str, data: str, out: str) -> tuple[PreTrainedModel, list[float]]:
    """The trained model and the loss of every step."""
    model = AutoModelForSequenceClassification.from_pretrained(calibrated)
    tokenizer = AutoTokenizer.from_pretrained(calibrated)
    rows = load_dataset("json", data_files=data, split="train").map(
        lambda row: tokenizer(row["text"], truncation=True) | {"label": model.config.label2id[row["label"]]}
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=f"{out}-checkpoints",
            max_steps=20,
            per_device_train_batch_size=8,
            learning_rate=5e-5,
            logging_steps=1,
            report_to=[],
        ),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    main(*sys.argv[1:])
