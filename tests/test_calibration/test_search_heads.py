"""What ``best`` and equalization measure of heads that are no single softmax: independent labels, words, two heads."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from calibration.calibrate import calibrate
from calibration.equalize import divergence
from calibration.probe import Probe
from calibration.replay import list_layers, project, record_calls
from calibration.settings import CalibrationSettings
from qat.answers import read_answers
from qat.batches import iterate_batches
from qat.huggingface import wrap
from qat.quantizer import disable_quantizers, named_quantizers
from tests.tiny_heads import encode_head, head_model
from tests.tolerances import PROJECTIONS

IDS = torch.ones(1, 4, dtype=torch.long)
FIRST_AND_LAST = torch.tensor([[7, -100, -100, 9]])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batches_of(head: str, family: str = "bert", n: int = 16) -> list[dict[str, Tensor]]:
    rows = encode_head(head, head_model(head, family), n)
    return [batch.to_tensors() for batch in iterate_batches(rows, batch_size=8, pad_token_id=0)]


def test_projections_of_independent_labels_have_the_gauss_newton_matrix_of_the_sigmoids() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0]], requires_grad=True)
    generator, moments = torch.Generator().manual_seed(0), torch.zeros(3, 3)
    for _ in range(2000):
        for scalar in project(read_answers({"logits": logits}, {}, independent=True), generator):
            (gradient,) = torch.autograd.grad(scalar, logits)
            moments += gradient.T @ gradient / 8000
    shares = logits.detach().sigmoid()[0]
    torch.testing.assert_close(moments, (shares * (1 - shares)).diag(), rtol=0, atol=PROJECTIONS.value)


def test_what_moves_all_labels_alike_is_seen_where_labels_are_independent() -> None:
    """One softmax does not see it: its answer stays the same, while other labels are taken."""
    logits = torch.tensor([[0.5, -0.5], [2.0, 0.1]])
    moved = logits - 1.0
    alone, together = (
        divergence(*(read_answers({"logits": x}, {}, independent=each) for x in (moved, logits)))
        for each in (True, False)
    )
    p, q = logits.double().sigmoid().numpy(), moved.double().sigmoid().numpy()
    assert alone == pytest.approx((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(), rel=1e-5)
    assert together == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("head", ["multi-label", "regression", "single-label"])
def test_the_search_reads_the_head_from_the_configuration(head: str) -> None:
    model = head_model(head, "bert")
    wrap(model)
    batch = {name: x for name, x in batches_of(head)[0].items() if name != "labels"}
    call = record_calls(model, [batch], list_layers(model))[-1]

    def gradient(*, independent: bool) -> Tensor:
        with disable_quantizers(model):
            found = model(**batch, output_hidden_states=True)
        answers = read_answers({"logits": found.logits}, batch, independent=independent)
        scalar = next(project(answers, torch.Generator().manual_seed(0)))
        last: Tensor = found.hidden_states[-1]
        return torch.autograd.grad(scalar, last)[0]

    several = head == "multi-label"
    torch.testing.assert_close(call.gradients[0], gradient(independent=several))
    assert not torch.allclose(call.gradients[0], gradient(independent=not several))


def test_only_answers_to_hidden_tokens_count() -> None:
    logits = draw(1, 4, 5).requires_grad_()
    batch = {"input_ids": IDS, "attention_mask": IDS, "labels": FIRST_AND_LAST}
    for scalar in project(read_answers({"logits": logits}, batch), torch.Generator().manual_seed(0)):
        (gradient,) = torch.autograd.grad(scalar, logits, retain_graph=True)
        assert (gradient.abs().sum(dim=-1) > 0).tolist() == [[True, False, False, True]]
    other = logits.detach() + torch.tensor([0.0, 1.0, 1.0, 0.0])[None, :, None] * draw(1, 4, 5, seed=1)
    assert divergence(*(read_answers({"logits": x}, batch) for x in (other, logits.detach()))) == 0.0


def test_both_heads_of_pretraining_count() -> None:
    words, pairs = draw(1, 4, 5), draw(1, 2, seed=1)
    given = {"prediction_logits": words + draw(1, 4, 5, seed=2), "seq_relationship_logits": pairs + draw(1, 2, seed=3)}
    wanted = {"prediction_logits": words, "seq_relationship_logits": pairs}
    batch = {"attention_mask": IDS, "labels": FIRST_AND_LAST}
    expected = sum(
        float(functional.kl_div(x.log_softmax(-1), y.log_softmax(-1), log_target=True, reduction="sum"))
        for x, y in (
            (given["prediction_logits"][:, [0, 3]], words[:, [0, 3]]),
            (given["seq_relationship_logits"], pairs),
        )
    )
    assert divergence(read_answers(given, batch), read_answers(wanted, batch)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("head", ["fill-mask", "pretraining", "multi-label", "token-classification"])
def test_the_default_calibration_takes_labelled_batches_of_every_head(head: str) -> None:
    model = head_model(head, "bert", layers=1)
    wrap(model)
    calibrate(model, batches_of(head), settings=CalibrationSettings(search_rows=4))
    assert all(bool((each.amax >= 0).all()) for _, each in named_quantizers(model))


def test_rows_kept_for_the_search_keep_which_tokens_count() -> None:
    probe = Probe()
    for number, batch in enumerate(batches_of("fill-mask"), start=1):
        probe.add(batch, number)
    for rows in probe.choose(6, batch_size=3):
        assert rows["labels"].shape == rows["attention_mask"].shape
        assert bool((rows["labels"][rows["attention_mask"] == 0] == -100).all())
        assert bool((rows["labels"] != -100).any(dim=1).all())
