"""Heads taken out: the model is the whole one with those heads silenced; saved, loaded, quantized, trained, refused."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from qat.checkpoint import load_checkpoint
from qat.errors import CheckpointError
from qat.huggingface import unwrap
from qat.pruned_heads import Heads, read_pruned_heads
from qat.structure import prune
from tests.calibrated import TASK, make_calibrated, save_calibrated
from tests.test_qat.wrapped import make_batch
from tests.tiny import save_tiny, tiny_albert, tiny_bert, tiny_convbert, tiny_squeezebert, tiny_tokenizer
from tests.tolerances import FORMULA

GROUPS = {f"{part}_groups": 2 for part in ("q", "k", "v", "post_attention")}
CASES: dict[str, tuple[Callable[[], PreTrainedModel], Heads]] = {
    "bert": (tiny_bert, {0: [1, 3], 1: [0, 1, 2]}),
    "albert": (tiny_albert, {0: [0, 2]}),
    "albert-groups": (partial(tiny_albert, num_hidden_groups=3, inner_group_num=2), {0: [1], 3: [0, 3]}),
    "convbert": (partial(tiny_convbert, head_ratio=1), {0: [3], 1: [0, 1]}),
    "squeezebert": (partial(tiny_squeezebert, **GROUPS), {0: [0, 3], 1: [1, 2]}),
}
cases = pytest.mark.parametrize("case", CASES)
LAYERS = {"bert": "layer", "convbert": "layer", "albert": "albert_layers", "squeezebert": "layers"}
READERS = {
    "bert": {"attention.output.dense": 1},
    "albert": {"attention.dense": 1},
    "convbert": {"attention.output.dense": 2, "attention.self.conv_kernel_layer": 1},
    "squeezebert": {"post_attention.conv1d": 1},
}
"""Who reads the heads of a layer, and how many times they follow one another there."""


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers with weights of their own, in order."""
    lists = [m for n, m in model.named_modules() if n.endswith(f".{LAYERS[model.config.model_type]}")]
    return [layer for each in lists for layer in each.children()]


def silence(heads: list[int], copies: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What is read of four heads, 0 where it comes from those."""
    axis = 1 if isinstance(module, nn.Conv1d) else -1
    x = inputs[0].movedim(axis, 0).unflatten(0, (copies, 4, -1)).clone()
    x[:, heads] = 0
    return (x.flatten(0, 2).movedim(0, axis),)


def logits_of(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**make_batch()).logits
    return logits


def silenced_logits(model: PreTrainedModel, heads: Heads) -> Tensor:
    """The whole model's answers with heads silenced where they are read: what Michel et al. call pruning."""
    with ExitStack() as hooks:
        for number, gone in heads.items():
            for path, copies in READERS[model.config.model_type].items():
                module = layers_of(model)[number].get_submodule(path)
                hook = module.register_forward_pre_hook(partial(silence, list(gone), copies))
                hooks.callback(hook.remove)
        return logits_of(model)


def make_pruned(case: str) -> PreTrainedModel:
    make, heads = CASES[case]
    model = make()
    prune(model, heads)
    return model


@cases
def test_a_pruned_model_is_the_whole_one_with_heads_silenced(case: str) -> None:
    make, heads = CASES[case]
    pruned = make_pruned(case)
    assert sum(map(torch.numel, pruned.parameters())) < sum(map(torch.numel, make().parameters()))
    apart = (logits_of(pruned) - silenced_logits(make(), heads)).abs().max()
    assert float(apart) < FORMULA.value
    assert not torch.allclose(logits_of(pruned), logits_of(make()), atol=1e-3)


@cases
def test_heads_taken_out_in_two_steps_are_those_of_one(case: str) -> None:
    make, heads = CASES[case]
    model = make()
    for number, gone in heads.items():
        prune(model, {number: gone})
    prune(model, heads)  # which are gone already
    expected = make_pruned(case)
    assert read_pruned_heads(model.config) == read_pruned_heads(expected.config) == heads
    assert torch.equal(logits_of(model), logits_of(expected))


@cases
def test_a_float_folder_comes_back_bit_by_bit(case: str, tmp_path: Path) -> None:
    model = make_pruned(case)
    folder = save_tiny(model, tiny_tokenizer(), tmp_path / "pruned")
    assert torch.equal(logits_of(load_checkpoint(folder, TASK).model), logits_of(model))
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert torch.equal(logits_of(plain), logits_of(model)), "after import qdq transformers builds it too"
    config = json.loads((folder / "config.json").read_text())
    assert {int(layer): heads for layer, heads in config["pruned_heads"].items()} == CASES[case][1]
    del config["quantization_config"]  # as transformers 4 wrote it
    (folder / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits_of(load_checkpoint(folder, TASK).model), logits_of(model))


@cases
def test_a_quantized_folder_comes_back_bit_by_bit(case: str, tmp_path: Path) -> None:
    model = make_calibrated(make_pruned(case))
    answers = logits_of(model)
    folder = save_calibrated(model, tmp_path / "calibrated")
    assert torch.equal(logits_of(load_checkpoint(folder, TASK).model), answers)
    assert not torch.equal(answers, logits_of(make_pruned(case))), "the quantizers are on"
    model(**make_batch()).loss.backward()
    assert [name for name, each in model.named_parameters() if each.grad is None] == []
    expected = logits_of(make_pruned(case))  # the residual stream's units come and go at FP32's precision
    assert float((logits_of(unwrap(model)) - expected).abs().max()) < FORMULA.value


def refusal(model: PreTrainedModel, heads: Heads) -> str:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        prune(model, heads)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return str(caught.value)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({2: [0]}, "no layer 2 to take heads out of: the model has layers 0 to 1"),
        ({0: [1], 1: [4]}, "layer 1 has no head 4: its heads are 0 to 3"),
        ({0: [3, 2, 1, 0]}, "layer 0 would lose all of its 4 heads: leave it at least one"),
    ],
)
def test_heads_there_are_not(heads: Heads, message: str) -> None:
    assert refusal(tiny_bert(), heads) == message


def test_a_layer_loses_its_last_head_in_no_two_steps_either() -> None:
    model = tiny_bert()
    prune(model, {0: [0, 1]})
    assert refusal(model, {0: [3, 2]}) == "layer 0 would lose all of its 4 heads: leave it at least one"


def test_groups_of_a_convolution_lose_as_many_heads_each() -> None:
    assert refusal(tiny_squeezebert(**GROUPS), {0: [0, 1]}) == (
        "layer 0 would keep different numbers of heads in the 2 groups of a convolution: take as many from each of "
        "0, 1; 2, 3"
    )
    assert refusal(tiny_squeezebert(q_groups=8), {1: [0]}) == (
        "layer 1 has 4 heads in convolutions of 8 groups, which cut heads apart: none of them can be taken out"
    )


@pytest.mark.parametrize("entry", [[1, 2], {"0": 1}, {"a": [1]}])
def test_an_entry_that_is_none(entry: object, tmp_path: Path) -> None:
    folder = save_tiny(tiny_bert(), tiny_tokenizer(), tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text()) | {"pruned_heads": entry}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, TASK)
    assert str(caught.value) == (
        f"pruned_heads in config.json is {entry!r}: layers with lists of heads are expected, as {{'0': [1, 2]}}"
    )
