"""A deployed graph run once, in this process, on the requests that a server would warm it up with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from export.deploy.settings import Provider
from export.deploy.warmup import Arrays
from export.runners.onnxruntime_runner import OnnxRuntimeRunner
from qat.errors import CheckpointError, DeployError


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A warm-up request and the shape of every answer to it."""

    request: str
    shapes: Mapping[str, tuple[int, ...]]


def run_samples(
    onnx_path: Path, config: Any, samples: Iterable[tuple[str, Arrays]], provider: Provider
) -> list[Answered]:
    """Every request with the shapes of its answers, which are those that the configuration declares, and finite.

    Raises:
        BuildError: this machine's ONNX Runtime does not have the provider.
        DeployError: the graph does not run, or answers with something else.
    """
    answered = []
    try:
        with OnnxRuntimeRunner(onnx_path, provider=provider) as runner:
            for name, feed in samples:
                answers = runner.infer(feed)
                rows = len(next(iter(feed.values())))
                for output in config.output:
                    _require_answer(f"{onnx_path}, warm-up '{name}'", output, answers[output.name], config, rows)
                shapes = {output.name: answers[output.name].shape for output in config.output}
                answered.append(Answered(request=name, shapes=shapes))
    except (CheckpointError, Fail, InvalidArgument, RuntimeException) as error:
        said = " ".join(str(error).split())[:300]
        raise DeployError(f"{onnx_path} does not run on its warm-up requests ({said}): export it again") from error
    return answered


def _require_answer(place: str, output: Any, answer: Any, config: Any, rows: int) -> None:
    expected = [*([rows] if config.max_batch_size else []), *output.dims]
    fits = len(expected) == answer.ndim and all(
        want in (-1, have) for have, want in zip(answer.shape, expected, strict=True)
    )
    if not fits:
        raise DeployError(
            f"{place}: output '{output.name}' has the shape {list(answer.shape)}, but the configuration declares "
            f"{expected}: write that in dims, or deploy again"
        )
    if not np.isfinite(answer).all():
        raise DeployError(
            f"{place}: output '{output.name}' has values that are no numbers: export the model again, with --data to "
            "find what overflows FP16"
        )
