"""A quantizer is a range and a switch: what it refuses, and when."""

import pytest
import torch

from qat.errors import RangeError
from qat.fake_quant import fake_quantize
from qat.huggingface import wrap
from qat.quantizer import (
    FakeQuantizer,
    Unquantized,
    disable_quantizers,
    named_quantizers,
    quantizers_without_range,
)
from qat.spec import PerChannel, QuantSpec
from tests.test_qat.wrapped import (
    ALBERT_LAYER,
    BERT_LAYER,
    make_batch,
    make_float,
    make_wrapped,
    run,
    same_answers,
    tensors_of,
)

X = torch.tensor([[-3.0, 0.26, 1.0], [0.5, 2.0, -0.1]])


def make_quantizer(spec: QuantSpec | None = None, *, ranges: int = 1) -> FakeQuantizer:
    return FakeQuantizer(spec or QuantSpec(), ranges=ranges, name="layer.slot")


def test_without_a_range_it_refuses_by_name() -> None:
    with pytest.raises(RangeError) as caught:
        make_quantizer()(X)
    assert str(caught.value) == (
        "quantizer 'layer.slot' has no range: run qdq.calibrate (qdq calibrate) on this model first"
    )


def test_a_wrapped_model_refuses_by_the_path_of_its_first_quantizer() -> None:
    model = make_float("bert")
    wrap(model)
    with pytest.raises(RangeError, match=rf"^quantizer '{BERT_LAYER}\.attention\.hidden_quantizer' has no range: "):
        model(**make_batch())


def test_with_a_range_it_rounds() -> None:
    quantizer = make_quantizer()
    quantizer.set_range(torch.tensor([127.0]))
    assert quantizer(X).tolist() == [[-3.0, 0.0, 1.0], [0.0, 2.0, 0.0]]


def test_channels_have_a_range_each() -> None:
    quantizer = make_quantizer(QuantSpec(granularity=PerChannel(1)), ranges=3)
    quantizer.set_range(torch.tensor([127.0, 254.0, 63.5]))
    assert quantizer(X).tolist() == [[-3.0, 0.0, 1.0], [0.0, 2.0, 0.0]]
    assert quantizer.scale().tolist() == [1.0, 2.0, 0.5]


def test_depths_have_a_range_each() -> None:
    quantizer = make_quantizer(ranges=2)
    quantizer.set_range(torch.tensor([127.0, 254.0]))
    scales = []
    for quantizer.depth in (0, 1):
        scales.append(quantizer.scale().item())
        assert torch.equal(quantizer(X), fake_quantize(X, quantizer.scale(), None))
    assert scales == [1.0, 2.0]


def test_a_fresher_range_replaces_the_stored_one() -> None:
    assert make_quantizer()(X, torch.tensor([127.0])).tolist() == [[-3.0, 0.0, 1.0], [0.0, 2.0, 0.0]]


def test_a_switched_off_one_hands_the_tensor_on() -> None:
    quantizer = make_quantizer()
    quantizer.enabled = False
    assert quantizer(X) is X
    assert Unquantized()(X) is X


def test_it_is_idle_when_it_is_off_and_nobody_watches() -> None:
    quantizer = make_quantizer()
    assert Unquantized().idle
    assert not quantizer.idle
    quantizer.enabled = False
    assert quantizer.idle
    for register in (quantizer.register_forward_pre_hook, quantizer.register_forward_hook):
        handle = register(lambda *_: None)
        assert not quantizer.idle
        handle.remove()
    assert quantizer.idle


@pytest.mark.parametrize(
    ("amax", "message"),
    [
        (torch.tensor(1.0), "layer.slot: a range of shape () given, (2,) expected"),
        (torch.ones(3), "layer.slot: a range of shape (3,) given, (2,) expected"),
        (torch.tensor([1.0, -0.5]), "layer.slot: amax must be finite and not negative, [1.0, -0.5] given"),
        (torch.tensor([1.0, torch.inf]), "layer.slot: amax must be finite and not negative, [1.0, inf] given"),
        (torch.tensor([torch.nan, 1.0]), "layer.slot: amax must be finite and not negative, [nan, 1.0] given"),
    ],
)
def test_ranges_that_are_none(amax: torch.Tensor, message: str) -> None:
    quantizer = make_quantizer(ranges=2)
    with pytest.raises(RangeError) as caught:
        quantizer.set_range(amax)
    assert str(caught.value) == message
    assert not quantizer.has_range


def test_a_forgotten_range_is_refused_again() -> None:
    quantizer = make_quantizer()
    quantizer.set_range(torch.tensor([1.0]))
    quantizer.clear_range()
    assert not quantizer.has_range
    assert quantizer.amax.isnan().all()


def test_a_constant_range_is_known_from_the_start() -> None:
    quantizer = make_quantizer(QuantSpec(range_source="constant"), ranges=2)
    quantizer.clear_range()
    assert quantizer.has_range
    assert quantizer.amax.tolist() == [1.0, 1.0]


def test_a_loaded_state_says_whether_there_is_a_range() -> None:
    given, empty, quantizer = make_quantizer(), make_quantizer(), make_quantizer()
    given.set_range(torch.tensor([3.0]))
    quantizer.load_state_dict(given.state_dict())
    assert quantizer.has_range
    quantizer.load_state_dict(empty.state_dict())
    assert not quantizer.has_range


def test_its_print_names_what_it_holds() -> None:
    assert repr(make_quantizer(ranges=2)) == "FakeQuantizer(PerTensor(), calibrated, ranges=2)"


def test_missing_ranges_are_listed_with_their_depth() -> None:
    model = make_float("albert")
    wrap(model)
    quantizer = model.get_submodule(f"{ALBERT_LAYER}.ffn_output.input_quantizer")
    assert isinstance(quantizer, FakeQuantizer)
    quantizer.amax[1] = 2.0
    missing = quantizers_without_range(model)
    assert f"{ALBERT_LAYER}.ffn_output.input_quantizer (depth 0, 2)" in missing
    assert f"{ALBERT_LAYER}.attention.hidden_quantizer (depth 0, 1, 2)" in missing
    assert not [name for name in missing if "weight_quantizer" in name or "probs_quantizer" in name]


def test_missing_ranges_of_switched_off_quantizers_do_not_count() -> None:
    model = make_float("bert")
    wrap(model)
    assert len(quantizers_without_range(model)) == 16
    with disable_quantizers(model):
        assert quantizers_without_range(model) == []


def test_switching_off_ends_with_the_block() -> None:
    model, before = make_wrapped("bert"), make_wrapped("bert")
    first, *others = [quantizer for _, quantizer in named_quantizers(model)]
    first.enabled = False
    with disable_quantizers(model):
        assert not any(quantizer.enabled for _, quantizer in named_quantizers(model))
    with pytest.raises(ZeroDivisionError), disable_quantizers(model):
        len(others) / 0
    assert not first.enabled
    assert all(quantizer.enabled for quantizer in others)
    first.enabled = True
    assert same_answers(model, before)


def test_quantizers_change_what_the_model_answers() -> None:
    model = make_wrapped("bert")
    with disable_quantizers(model):
        _, floating, *_ = tensors_of(run(model))
    _, logits, *_ = tensors_of(run(model))
    assert not torch.equal(logits, floating)
