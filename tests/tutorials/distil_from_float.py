"""QAT towards a float teacher: ``python distil_from_float.py CALIBRATED TRAIN.jsonl OUT FLOAT``.

``qdq.QATTrainer`` is transformers' Trainer; given the float checkpoint as a teacher, it trains the quantized one to
answer as the teacher does, and refuses to start without ranges.
"""

import sys

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, TrainingArguments

import qdq


def main(calibrated: str, data: str, out: str, checkpoint: str) -> tuple[PreTrainedModel, list[float]]:
    """The trained model and the loss of every step."""
    teacher = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(calibrated)
    tokenizer = AutoTokenizer.from_pretrained(calibrated)
    rows = load_dataset("json", data_files=data, split="train").map(
        lambda row: tokenizer(row["text"], truncation=True) | {"label": model.config.label2id[row["label"]]}
    )
    trainer = qdq.QATTrainer(
        model=model,
        teacher=teacher,
        args=TrainingArguments(
            output_dir=f"{out}-checkpoints",
            max_steps=20,
            per_device_train_batch_size=8,
            learning_rate=5e-5,
            lr_scheduler_type="cosine",
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
