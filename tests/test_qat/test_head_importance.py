"""The importance of heads against finite differences of the loss, and the choice made by it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from qat.errors import DataError
from qat.head_importance import Scores, choose_heads, least_important, measure_importance
from qat.structure import prune
from tests.calibrated import tiny_batches
from tests.test_qat.test_pruned_heads import CASES, cases, layers_of, make_pruned
from tests.tiny import tiny_bert
from tests.tolerances import HEAD_DIFFERENCE

STEP = 1e-4


def loss_with_factor(model: PreTrainedModel, row: dict[str, Tensor], layer: int, head: int, factor: float) -> float:
    """The loss of one row where one head's values are scaled, in FP64: of a model without a product of its own."""
    module = layers_of(model)[layer].get_submodule("attention.output.dense")
    width = model.config.hidden_size // model.config.num_attention_heads

    def scale(_: object, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0].clone()
        x[..., head * width : (head + 1) * width] *= factor
        return (x,)

    hook = module.register_forward_pre_hook(scale)
    with torch.no_grad():
        loss: Tensor = model(**row).loss
    hook.remove()
    return float(loss)


def test_scores_are_mean_slopes_of_each_row() -> None:
    model = tiny_bert().double()
    batches = tiny_batches(6, batch_size=4)
    expected = []
    for layer in range(2):
        slopes = []
        for head in range(4):
            total = 0.0
            for batch in batches:
                for i in range(len(batch["labels"])):
                    row = {name: value[i : i + 1] for name, value in batch.items()}
                    ends = [loss_with_factor(model, row, layer, head, 1 + sign * STEP) for sign in (1, -1)]
                    total += abs(ends[0] - ends[1]) / (2 * STEP)
            slopes.append(total)
        norm = torch.tensor(slopes, dtype=torch.float64).norm()
        expected.append([float(each / norm) for each in slopes])
    seen: list[int] = []
    found = measure_importance(model, batches, progress=seen.append)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=HEAD_DIFFERENCE.value)
    assert seen == [4, 6]
    assert {each.grad for each in model.parameters()} == {None}


@cases
def test_every_family_has_scores_of_norm_one(case: str) -> None:
    scores = measure_importance(CASES[case][0](), tiny_batches(8))
    assert [len(each) for each in scores] == [4] * len(layers_of(CASES[case][0]()))
    assert [sum(value**2 for value in each) for each in scores] == pytest.approx([1.0] * len(scores))
    assert measure_importance(CASES[case][0](), tiny_batches(8)) == scores


@cases
def test_the_chosen_heads_can_be_taken_out(case: str) -> None:
    model = CASES[case][0]()
    heads = least_important(model, measure_importance(model, tiny_batches(8)), 0.5)
    prune(model, heads)
    assert sum(map(len, heads.values())) == 2 * len(layers_of(model))


def test_of_a_pruned_model_the_heads_that_are_left_are_named() -> None:
    model = make_pruned("bert")  # layer 0 has heads 0 and 2, layer 1 has head 3
    scores = measure_importance(model, tiny_batches(8))
    assert [len(each) for each in scores] == [2, 1]
    assert least_important(model, scores, 0.3) in ({0: [0]}, {0: [2]})


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=6), min_size=1, max_size=5),
    st.floats(0.05, 0.95),
)
def test_the_least_important_go_first_and_none_loses_all(scores: Scores, share: float) -> None:
    total, most = sum(map(len, scores)), sum(len(each) - 1 for each in scores)
    wanted = -int(-(share * total - 1e-9) // 1)
    if wanted > most:
        with pytest.raises(DataError, match="can be taken out"):
            choose_heads(scores, share, [1] * len(scores))
        return
    chosen = choose_heads(scores, share, [1] * len(scores))
    assert sum(map(len, chosen.values())) == wanted
    for layer, heads in chosen.items():
        left = [value for place, value in enumerate(scores[layer]) if place not in heads]
        assert left
        assert max(scores[layer][head] for head in heads) <= min(left)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 2.0])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(DataError) as caught:
        choose_heads([[0.5, 0.5]], share, [1])
    assert str(caught.value) == (
        f"--share {share:g} given: a share of all heads above 0 and below 1 is expected, as 0.5"
    )


def test_a_share_that_leaves_a_layer_without_heads() -> None:
    with pytest.raises(DataError) as caught:
        choose_heads([[0.5, 0.5], [0.1, 0.9]], 0.7, [1, 1])
    assert str(caught.value) == "--share 0.7 means 3 of 4 heads: between 1 and 2 can be taken out"


def test_rows_without_labels_and_no_rows() -> None:
    batch = {name: value for name, value in tiny_batches(4)[0].items() if name != "labels"}
    with pytest.raises(DataError, match=r"^the rows have no labels: the importance of heads is measured on the loss$"):
        measure_importance(tiny_bert(), [batch])
    with pytest.raises(DataError, match=r"^there are no rows to measure the importance of heads on$"):
        measure_importance(tiny_bert(), [])
