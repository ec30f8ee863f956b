"""What is distilled beside class logits: spans, tokens, numbers, hidden states and attention, against NumPy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from calibration.calibrate import calibrate
from calibration.settings import CalibrationSettings
from qat.distill import (
    Distillation,
    answer_distance,
    attention_distance,
    hidden_distance,
    prepare_teacher,
    requested_outputs,
    stream_units,
    teaching_loss,
)
from qat.errors import CheckpointError
from qat.families import find_family
from qat.huggingface import wrap
from qat.quantizer import disable_quantizers
from qat.residual_stream import rescale_stream
from tests.calibrated import make_calibrated, tiny_batches
from tests.tiny import TINY_MODELS, tiny_bert
from tests.tolerances import DISTILLATION

Doubles = NDArray[np.float64]

family = pytest.mark.parametrize("name", TINY_MODELS)
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def softmax(x: Doubles) -> Doubles:
    powers: Doubles = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: Doubles = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def test_a_span_is_one_distribution_over_the_real_tokens() -> None:
    given = {"start_logits": draw(2, 3, seed=1), "end_logits": draw(2, 3, seed=2), "loss": draw(1)}
    wanted = {"start_logits": draw(2, 3, seed=3), "end_logits": draw(2, 3, seed=4)}
    expected = []
    for name in wanted:
        for row, length in ((0, 3), (1, 2)):
            p, q = (softmax(x[name][row, :length].double().numpy() / 2) for x in (wanted, given))
            expected.append(4 * (p * np.log(p / q)).sum())
    found = answer_distance(given, wanted, {"attention_mask": MASK}, 2.0, independent=False)
    assert float(found) == pytest.approx(np.mean(expected), rel=DISTILLATION.value)


def test_a_label_a_token_counts_for_real_tokens() -> None:
    given, wanted = {"logits": draw(2, 3, 5, seed=1)}, {"logits": draw(2, 3, 5, seed=2)}
    p, q = (softmax(x["logits"].double().numpy()) for x in (wanted, given))
    expected = (p * np.log(p / q)).sum(axis=-1)[MASK.numpy() == 1].mean()
    found = answer_distance(given, wanted, {"attention_mask": MASK}, 1.0, independent=False)
    assert float(found) == pytest.approx(expected, rel=DISTILLATION.value)
    moved = {"logits": wanted["logits"] + torch.where(MASK == 0, draw(2, 3, seed=9), 0.0)[..., None] * draw(5, seed=8)}
    assert float(answer_distance(given, moved, {"attention_mask": MASK}, 1.0, independent=False)) == float(found)


def test_a_number_is_compared_by_its_square() -> None:
    given, wanted = {"logits": torch.tensor([[1.0], [3.0]])}, {"logits": torch.tensor([[2.0], [0.0]])}
    assert float(answer_distance(given, wanted, {}, 2.0, independent=False)) == 5.0


def test_independent_labels_are_one_distribution_each() -> None:
    given, wanted = {"logits": draw(4, 3, seed=1)}, {"logits": draw(4, 3, seed=2)}
    p, q = (1 / (1 + np.exp(-x["logits"].double().numpy() / 2)) for x in (wanted, given))
    expected = 4 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    found = answer_distance(given, wanted, {}, 2.0, independent=True)
    assert float(found) == pytest.approx(expected, rel=DISTILLATION.value)


def test_hidden_states_weigh_alike_and_padding_counts_nothing() -> None:
    given, wanted = [draw(2, 3, 4, seed=s) for s in (1, 2)], [draw(2, 3, 4, seed=s) * s for s in (3, 40)]
    real = MASK.numpy() == 1
    expected = []
    for x, y in zip(given, wanted, strict=True):
        ours, theirs = x.double().numpy()[real], y.double().numpy()[real]
        expected.append(((ours - theirs) ** 2).mean() / (theirs**2).mean())
    assert float(hidden_distance(given, wanted, MASK)) == pytest.approx(np.mean(expected), rel=DISTILLATION.value)


def test_attention_is_the_divergence_of_real_tokens() -> None:
    given, wanted = (torch.softmax(draw(2, 2, 3, 3, seed=s), dim=-1) for s in (1, 2))
    p, q = (x.double().numpy() for x in (wanted, given))
    rows = (p * np.log(p / q)).sum(axis=-1).transpose(0, 2, 1)
    expected = rows[MASK.numpy() == 1].mean()
    assert float(attention_distance([given], [wanted], MASK)) == pytest.approx(expected, rel=DISTILLATION.value)


def test_a_probability_rounded_to_zero_costs_no_infinity() -> None:
    sharp, even = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.5, 0.5]]]])
    expected = 0.5 * np.log(0.5 / 1.0) + 0.5 * np.log(0.5 / (0.5 / 127))
    assert float(attention_distance([sharp], [even], None)) == pytest.approx(expected, rel=DISTILLATION.value)


def rescale(model: PreTrainedModel) -> None:
    for number, tensor in enumerate(find_family(model.config.model_type).stream_tensors(model)):
        generator = torch.Generator().manual_seed(number)
        rescale_stream(
            model, tensor, torch.exp2(torch.randint(-2, 4, (model.config.hidden_size,), generator=generator))
        )


@family
def test_in_float_the_student_has_nothing_to_learn_whatever_the_units_of_its_stream(name: str) -> None:
    student, teacher = TINY_MODELS[name]().eval(), TINY_MODELS[name]()
    wrap(student)
    rescale(student)
    wishes = Distillation(hidden=1.0, attention=1.0)
    prepare_teacher(teacher, wishes)
    (batch,) = tiny_batches(8)
    asked = {**{key: x for key, x in batch.items() if key != "labels"}, **requested_outputs(wishes)}
    with torch.no_grad(), disable_quantizers(student):
        answers, inner = teaching_loss(student, student(**asked), teacher(**asked), batch, wishes)
        assert any(bool((unit != 1).any()) for unit in stream_units(student))
    assert float(answers) <= DISTILLATION.value
    assert float(inner) <= DISTILLATION.value


@family
def test_hidden_states_and_attention_have_a_gradient(name: str) -> None:
    model, teacher = make_calibrated(TINY_MODELS[name]()), TINY_MODELS[name]()
    wishes = Distillation(hidden=1.0, attention=1.0)
    prepare_teacher(teacher, wishes)
    (batch,) = tiny_batches(8)
    asked = {**{key: x for key, x in batch.items() if key != "labels"}, **requested_outputs(wishes)}
    _, inner = teaching_loss(model, model(**asked), teacher(**asked), batch, wishes)
    inner.backward()
    layers = [p for path, p in model.named_parameters() if path.endswith(("query.weight", "q_lin.weight"))]
    assert layers
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in layers)


def test_a_teacher_of_another_depth_is_refused() -> None:
    model, teacher = make_calibrated(tiny_bert()), tiny_bert()
    wishes = Distillation(hidden=1.0)
    (batch,) = tiny_batches(8)
    asked = {**{key: x for key, x in batch.items() if key != "labels"}, **requested_outputs(wishes)}
    wanted = teacher(**asked)
    wanted["hidden_states"] = wanted["hidden_states"][1:]
    with pytest.raises(CheckpointError) as caught:
        teaching_loss(model, model(**asked), wanted, {}, wishes)
    given, states = (len(x["hidden_states"]) for x in (wanted, model(**asked)))
    shape = tuple(model(**asked)["hidden_states"][0].shape)
    assert str(caught.value) == (
        f"the hidden states of the teacher are {given} of shape {tuple(wanted['hidden_states'][0].shape)}, the "
        f"student's {states} of {shape}: give the float checkpoint the student was made from"
    )


def test_only_what_has_a_weight_is_asked_for() -> None:
    assert requested_outputs(Distillation()) == {}
    assert requested_outputs(Distillation(hidden=0.1)) == {"output_hidden_states": True}
    assert requested_outputs(Distillation(attention=0.1)) == {"output_attentions": True}


def test_a_calibrated_stream_in_units_of_its_own_is_distilled_too() -> None:
    """``qdq calibrate`` equalizes: what is compared is the float model's own hidden state."""
    model, teacher = tiny_bert(), tiny_bert()
    wrap(model)
    calibrate(model, tiny_batches(), settings=CalibrationSettings(method="max", equalize=False))
    rescale(model)
    nn.Module.eval(model)
    assert [unit.shape for unit in stream_units(model)] == [(teacher.config.hidden_size,)] * 2


def test_only_labelled_tokens_are_distilled_and_both_heads_weigh_alike() -> None:
    given = {"prediction_logits": draw(2, 3, 5, seed=1), "sop_logits": draw(2, 2, seed=2)}
    wanted = {"prediction_logits": draw(2, 3, 5, seed=3), "sop_logits": draw(2, 2, seed=4)}
    labels = torch.tensor([[-100, 4, -100], [1, -100, -100]])
    expected = []
    for name, places in (("prediction_logits", labels.numpy() != -100), ("sop_logits", slice(None))):
        p, q = (softmax(x[name].double().numpy()[places] / 2) for x in (wanted, given))
        expected.append(4 * (p * np.log(p / q)).sum(axis=-1).mean())
    batch = {"attention_mask": MASK, "labels": labels, "sentence_order_label": torch.tensor([0, 1])}
    found = answer_distance(given, wanted, batch, 2.0, independent=False)
    assert float(found) == pytest.approx(np.mean(expected), rel=DISTILLATION.value)
