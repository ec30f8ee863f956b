"""Fine-tuning with a teacher: what the loss is, and what happens to the teacher (nothing)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments

from qat.batches import Collator
from qat.distill import Distillation
from qat.errors import CheckpointError, DataError
from qat.finetune import finetune
from qat.finetune_settings import FinetuneSettings
from qat.trainer import QATTrainer
from tests.calibrated import encode_tiny, make_calibrated, tiny_batches
from tests.tiny import tiny_albert, tiny_bert, tiny_tokenizer
from tests.tolerances import DISTILLATION, MICRO_BATCHES

ROWS = encode_tiny(32, seed=1)
SHORT = FinetuneSettings(max_steps=4, batch_size=8, learning_rate=1e-3, held_out=0)


def make_trainer(model: PreTrainedModel, teacher: PreTrainedModel | None, folder: Path, **named: Any) -> QATTrainer:
    settings: dict[str, Any] = {"report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True}
    distillation = named.pop("distillation", Distillation())
    return QATTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), dataloader_pin_memory=False, **settings, **named),
        train_dataset=ROWS.features,
        data_collator=Collator(pad_token_id=0),
        teacher=teacher,
        distillation=distillation,
    )


def soften(logits: Tensor, temperature: float) -> Any:
    powers = np.exp(logits.detach().numpy().astype(np.float64) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("distillation", "temperature"), [(0.9, 2.0), (0.25, 1.0), (0.0, 2.0), (1.0, 3.0)])
def test_the_loss_is_the_mix_of_labels_and_teacher(tmp_path: Path, distillation: float, temperature: float) -> None:
    model, teacher = make_calibrated(tiny_albert()), tiny_albert(seed=4)
    (batch,) = tiny_batches(8)
    trainer = make_trainer(
        model, teacher, tmp_path, distillation=Distillation(answers=distillation, temperature=temperature)
    )
    loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    student, answers = model(**inputs).logits, teacher(**inputs).logits
    p, q = soften(answers, temperature), soften(student, temperature)
    pull = temperature**2 * (p * np.log(p / q)).sum(axis=1).mean()
    labels = -np.log(soften(student, 1.0)[np.arange(8), batch["labels"].numpy()]).mean()
    expected = (1 - distillation) * labels + distillation * pull
    assert float(loss.detach()) == pytest.approx(expected, rel=DISTILLATION.value)
    assert torch.equal(outputs.logits, student)
    assert float(trainer.compute_loss(model, dict(batch)).detach()) == float(loss.detach())


def test_the_teacher_stays_as_it_is() -> None:
    teacher = tiny_bert(seed=4)
    teacher.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    finetune(make_calibrated(tiny_bert()), ROWS, tokenizer=tiny_tokenizer(), teacher=teacher, settings=SHORT)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(weight.grad is None for weight in teacher.parameters())
    assert not any(module.training for module in teacher.modules()), "a teacher with dropout answers at random"


def test_the_student_moves_towards_the_teacher() -> None:
    teacher, model = tiny_bert(seed=4), make_calibrated(tiny_bert())
    (batch,) = tiny_batches(32, seed=1, batch_size=32)
    inputs = {name: x for name, x in batch.items() if name != "labels"}

    def distance() -> float:
        with torch.no_grad():
            p, q = soften(teacher(**inputs).logits, 1.0), soften(model(**inputs).logits, 1.0)
        return float((p * np.log(p / q)).sum(axis=1).mean())

    before = distance()
    settings = FinetuneSettings(max_steps=30, batch_size=32, learning_rate=5e-3, distillation=1.0, held_out=0)
    done = finetune(model, ROWS, tokenizer=tiny_tokenizer(), teacher=teacher, settings=settings)
    assert distance() < 0.5 * before
    assert done.last_loss < done.first_loss


@pytest.mark.parametrize("distillation", [None, 0.0, 0.9])
def test_micro_batches_weigh_as_one_batch(tmp_path: Path, distillation: float | None) -> None:
    def first_gradient(rows: int, parts: int) -> float:
        model = make_calibrated(tiny_albert())
        trainer = make_trainer(
            model,
            None if distillation is None else tiny_albert(seed=4),
            tmp_path,
            distillation=Distillation(answers=distillation or 0.0),
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=parts,
            max_steps=1,
        )
        trainer.train()
        return float(trainer.state.log_history[0]["grad_norm"])

    assert first_gradient(8, 4) == pytest.approx(first_gradient(32, 1), rel=MICRO_BATCHES.value)


def test_without_a_teacher_nothing_is_mixed() -> None:
    """The settings of distillation are there, and have no effect."""

    def run(settings: FinetuneSettings) -> list[Tensor]:
        model: nn.Module = make_calibrated(tiny_bert())
        finetune(model, ROWS, tokenizer=tiny_tokenizer(), settings=settings)  # type: ignore[arg-type]
        return [weight.detach() for weight in model.parameters()]

    first, second = run(SHORT), run(SHORT.model_copy(update={"distillation": 0.1, "temperature": 5.0}))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_teacher_of_other_labels_is_refused(tmp_path: Path) -> None:
    model = make_calibrated(tiny_bert())
    labels, width = len(model.config.id2label or {}), 7
    teacher = tiny_bert()
    teacher.classifier = nn.Linear(teacher.config.hidden_size, width)
    trainer = make_trainer(model, teacher, tmp_path)
    (batch,) = tiny_batches(8)
    with pytest.raises(CheckpointError) as caught:
        trainer.compute_loss(model, dict(batch))
    assert str(caught.value) == (
        f"the logits of the teacher are 1 of shape (8, {width}), the student's 1 of (8, {labels}): "
        "give the float checkpoint the student was made from"
    )


@pytest.mark.parametrize("label", [-1, 99])
def test_a_label_the_head_does_not_have_is_named(label: int, tmp_path: Path) -> None:
    model = make_calibrated(tiny_bert())
    labels = len(model.config.id2label or {})
    (batch,) = tiny_batches(8)
    batch["labels"][3] = label
    with pytest.raises(DataError) as caught:
        make_trainer(model, tiny_bert(), tmp_path).compute_loss(model, batch)
    assert str(caught.value) == (
        f"label {label} is not one of the {labels} of the model's head: expected 0 to {labels - 1}"
    )
