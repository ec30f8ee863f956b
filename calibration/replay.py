"""Parts of the model run again: what each was given, what it answered in float, and how much each answer matters.

A change ``d`` of a part's answer changes the model's output distribution by about ``d' H d / 2`` (its KL divergence),
``H`` the Gauss-Newton matrix of that answer; as in BRECQ (Li et al. 2021, arXiv 2102.05426, section 3.2) it
takes the place of a plain squared error, here as its blocks of one token: errors of different tokens are independent
enough. ``H = J' (diag(p) - p p') J`` is never formed: with random signs ``z`` the gradient ``g`` of
``logits . (sqrt(p) z - p (sqrt(p) . z))`` has ``E[g g'] = H``, so ``mean((g . d)^2)`` estimates ``d' H d``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qat.answers import has_independent_labels, is_distribution, read_answers
from qat.batches import drop_targets
from qat.families import find_family
from qat.quantizer import FakeQuantizer, calibrated_quantizers, disable_quantizers

_PROJECTIONS = 4


@dataclass(kw_only=True, slots=True)
class Call:
    """One run of a layer, or of a part of it, in the float model.

    Attributes:
        name: the module's path.
        depth: which of the layer's runs it is.
        answer: its hidden states, batch first.
        channel_axis: where ``answer`` has its channels.
        gradients: of random projections of the model's output, each shaped like ``answer``.
    """

    name: str
    module: nn.Module
    depth: int
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    answer: Tensor
    channel_axis: int = 2
    gradients: list[Tensor] = field(default_factory=list)

    def measure(self) -> float:
        """The harm of what is switched on in it now: twice the KL divergence to expect, summed over the rows."""
        change = hidden_states(self.module(*self.arguments, **self.named)) - self.answer
        harms = [(change * gradient).sum(dim=self.channel_axis).square().sum() for gradient in self.gradients]
        return float(torch.stack(harms).mean())


def list_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Every encoder layer by its path."""
    return dict(find_family(model.config.model_type).layers(model))


def list_parts(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Every encoder layer, and what lies in it and has quantizers inside: attention and feed-forward block, by path."""
    layers = list_layers(model)
    parts = {f"{layer}.{name}": part for layer, each in layers.items() for name, part in list_inner_parts(each).items()}
    return layers | parts


def list_inner_parts(layer: nn.Module) -> dict[str, nn.Module]:
    """What lies in a layer and has quantizers inside, by name."""
    return {
        name: part
        for name, part in layer.named_children()
        if not isinstance(part, FakeQuantizer) and any(True for _ in calibrated_quantizers(part))
    }


def record_calls(
    model: PreTrainedModel, batches: Sequence[Mapping[str, Tensor]], modules: Mapping[str, nn.Module]
) -> list[Call]:
    """Every run of those modules over those batches, in float, in evaluation mode, in the order they end.

    Labels of single tokens only say which answers count.
    """
    independent = has_independent_labels(model.config)
    calls: list[Call] = []
    generator = torch.Generator().manual_seed(0)
    with disable_quantizers(model), _gradients_of_activations(model), torch.enable_grad():
        for batch in batches:
            with _recording(modules) as made, _without_cache(model):
                output = model(**drop_targets(batch))
            answers = [call.answer for call in made]
            for projection in project(read_answers(output, batch, independent=independent), generator):
                found = torch.autograd.grad(projection, answers, retain_graph=True)
                for call, gradient in zip(made, found, strict=True):
                    call.gradients.append(gradient)
            for call in made:
                call.answer = call.answer.detach()
                call.channel_axis = 2 if call.answer.shape[1] == next(iter(batch.values())).shape[-1] else 1
            calls.extend(made)
    return calls


def run_up_to(calls: Sequence[Call], layers: Sequence[Call]) -> list[Call]:
    """The calls of a part, given what it is given now: by the layers around it, with what is switched on in them.

    Args:
        calls: of the part, in the float model.
        layers: the calls of its layer, as many.
    """
    with _recording({call.name: call.module for call in calls}) as made:
        for layer in layers:
            layer.module(*layer.arguments, **layer.named)
    return [replace(call, arguments=now.arguments, named=now.named) for call, now in zip(calls, made, strict=True)]


def project(answers: Mapping[str, Tensor], generator: torch.Generator) -> Iterator[Tensor]:
    """Scalars whose gradients are those of the module's docstring: of logits over their last axis, else plain signs.

    Args:
        answers: the model's, those that count (``qat.answers``).
        generator: of the signs.
    """
    for _ in range(_PROJECTIONS):
        yield torch.stack(
            [_project_one(x, generator, spread=is_distribution(name, x)) for name, x in answers.items()]
        ).sum()


def _project_one(x: Tensor, generator: torch.Generator, *, spread: bool) -> Tensor:
    signs = (torch.randint(0, 2, x.shape, generator=generator) * 2 - 1).to(x)
    if spread:
        shares = x.detach().softmax(dim=-1)
        roots = shares.sqrt() * signs
        signs = roots - shares * roots.sum(dim=-1, keepdim=True)
    return (x * signs).sum()


def hidden_states(answer: Any) -> Tensor:
    """The hidden states in what a module returns: itself, or the first of a tuple or mapping."""
    if isinstance(answer, Mapping):
        answer = next(iter(answer.values()))
    found: Tensor = answer if isinstance(answer, Tensor) else answer[0]
    return found


@contextmanager
def _recording(modules: Mapping[str, nn.Module]) -> Iterator[list[Call]]:
    """Inside the block every run of a module is noted.

    Their ``forward`` is replaced for that time, because some models call it past ``__call__`` and its hooks.
    """
    calls: list[Call] = []

    def record(name: str, module: nn.Module) -> Any:
        run = module.forward
        quantizers = [quantizer for _, quantizer in calibrated_quantizers(module)]

        inside: list[bool] = []

        def forward(*arguments: Any, **named: Any) -> Any:
            if inside:  # SqueezeBERT's layers call themselves, to go by their hooks
                return run(*arguments, **named)
            inside.append(True)
            try:
                answer = run(*arguments, **named)
            finally:
                inside.clear()
            depth = max((quantizer.depth for quantizer in quantizers), default=0)
            given = tuple(x.detach() if isinstance(x, Tensor) else x for x in arguments)
            kept = {key: x.detach() if isinstance(x, Tensor) else x for key, x in named.items()}
            calls.append(
                Call(
                    name=name,
                    module=module,
                    depth=depth,
                    arguments=given,
                    named=kept,
                    answer=hidden_states(answer),
                )
            )
            return answer

        return forward

    for name, module in modules.items():
        vars(module)["forward"] = record(name, module)
    try:
        yield calls
    finally:
        for module in modules.values():
            del vars(module)["forward"]


@contextmanager
def _without_cache(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block a decoder keeps no keys and values, which a layer that is run again would add its own to."""
    before = getattr(model.config, "use_cache", False)
    model.config.use_cache = False
    try:
        yield
    finally:
        model.config.use_cache = before


@contextmanager
def _gradients_of_activations(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block gradients reach every activation and no parameter, which halves the backward pass."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    embeddings: nn.Module = model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, given, answer: answer.requires_grad_())
    try:
        yield
    finally:
        hook.remove()
        for parameter, needed in before:
            parameter.requires_grad_(needed)
