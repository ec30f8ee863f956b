"""A server's configuration against the model it configures: names, types, shapes, batches."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from export.deploy.interface import Interface, Tensor
from export.deploy.model_config import CONFIG_FILE, PLATFORMS, load_messages
from export.deploy.plan import explain_batch
from export.engine_spec import ShapeRange
from qat.errors import suggest


def explain_config(config: Any, folder: Path, interface: Interface, profiles: Sequence[ShapeRange]) -> Iterator[str]:
    """What a server would not load, or would load and then fail at."""
    place = folder / CONFIG_FILE
    if config.name and config.name != folder.name:
        yield f"{place} names the model '{config.name}', but its folder is '{folder.name}': give both one name"
    if config.backend not in PLATFORMS:
        yield f"{place} has the backend '{config.backend}': {suggest(config.backend, PLATFORMS)}"
    yield from _explain_batching(config, place, interface, profiles)
    batched = config.max_batch_size > 0
    yield from _explain_tensors("input", config.input, interface.inputs, place, batched=batched)
    yield from _explain_tensors("output", config.output, interface.outputs, place, batched=batched)
    yield from _explain_instances(config, place)


def _explain_batching(config: Any, place: Path, interface: Interface, profiles: Sequence[ShapeRange]) -> Iterator[str]:
    largest = config.max_batch_size
    if largest < 0:
        yield f"{place}: max_batch_size is {largest}: expected 0 for a model of one shape, or 1 or more"
    if largest > 0 and not interface.batched:
        axes = interface.inputs[0].axes
        yield (
            f"{place}: max_batch_size is {largest}, but the model takes one shape, {'x'.join(map(str, axes))}: set it "
            "to 0 with the whole shape in dims, or deploy again"
        )
    if largest == 0 and interface.batched:
        yield f"{place}: max_batch_size is 0, but the model takes any batch: give the largest, or deploy again"
    for size in config.dynamic_batching.preferred_batch_size:
        if not 0 < size <= largest:
            yield (
                f"{place}: preferred_batch_size {size} is not within max_batch_size {largest}: a server refuses that; "
                "leave it out or make it smaller"
            )
    if profiles:
        too_large = explain_batch(largest, tuple(profiles))
        if too_large:
            yield f"{place}: {too_large}"


def _explain_tensors(
    role: str, declared: Sequence[Any], real: Sequence[Tensor], place: Path, *, batched: bool
) -> Iterator[str]:
    known = {tensor.name: tensor for tensor in real}
    for each in declared:
        if each.name not in known:
            yield f"{place} declares the {role} '{each.name}', which the model has not: {suggest(each.name, known)}"
        else:
            yield from _explain_tensor(role, each, known[each.name], place, batched=batched)
    given = {each.name for each in declared}
    for name in known:
        if name not in given and role == "input":
            yield (
                f"{place} does not declare the input '{name}', which the model needs; it declares "
                f"{', '.join(sorted(given)) or 'none'}: add it, or deploy again"
            )
    if not given and role == "output":
        yield f"{place} declares no output; the model has {', '.join(known)}: add them, or deploy again"


def _explain_tensor(role: str, declared: Any, real: Tensor, place: Path, *, batched: bool) -> Iterator[str]:
    kind = load_messages().DataType.Name(declared.data_type)
    if kind != real.data_type:
        yield (
            f"{place} declares the {role} '{real.name}' as {kind}, but the model has it as {real.data_type}: write "
            "that, or deploy again"
        )
    given, expected = list(declared.dims), real.dims(batched=batched)
    # A server may be told a size where the model takes any, never another size or another number of axes
    if len(given) != len(expected) or any(want not in (-1, have) for have, want in zip(given, expected, strict=True)):
        written = "x".join(map(str, real.axes))
        yield (
            f"{place} declares the {role} '{real.name}' with dims {given}, but the model has {written}, which is "
            f"{expected} here: write that, or deploy again"
        )


def _explain_instances(config: Any, place: Path) -> Iterator[str]:
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    for group in config.instance_group:
        if group.count < 1:
            yield f"{place}: an instance group of {group.count}: expected 1 or more"
        if group.kind == group.KIND_CPU and (config.backend == "tensorrt" or accelerators):
            needs = "an engine" if config.backend == "tensorrt" else f"the accelerator '{accelerators[0].name}'"
            yield f"{place}: an instance group of KIND_CPU, but {needs} needs a GPU: write KIND_GPU, or deploy again"
