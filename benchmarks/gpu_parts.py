"""What is measured on a GPU: INT8 engines beside FP16 and fake quantization, the fused kernels, steps of QAT."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import measure_accuracy, share_agreeing
from benchmarks.gpu_kernels import measure_kernels
from benchmarks.latency import measure_latency
from benchmarks.qat_step_contestants import Setting
from benchmarks.qat_step_rounds import compare_steps, time_steps
from benchmarks.timing import CLOCKS
from benchmarks.workload import Workload
from calibration.settings import CalibrationSettings
from calibration.stage import CalibrationStage, calibrate_checkpoint
from export.engine import BuildSettings, Engine, build
from export.engine_spec import BuilderName
from export.exported import ExportedModel, Lowering, trace_model, write_exported
from export.gpu import Gpu, find_gpu
from export.runners.tensorrt_runner import TensorRtRunner
from export.runners.torch_runner import TorchRunner
from export.targets import find_target
from qat.checkpoint import Checkpoint, load_checkpoint
from qat.commands import encode_rows
from qat.errors import BuildError
from qat.families import longest_row
from qat.recipe import Recipe
from qat.scoring import Accuracy
from qat.tasks import Task, find_task
from qat.tasks.base import Encoded
from qat.tasks.record import TaskRecord

_BUILDERS: Mapping[BuilderName, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""The packages of the builders; a machine has one or both."""

_TASK = "text-classification"
_SHAPES = ((1, 32), (1, 128), (8, 128), (32, 128))
_LARGEST_BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuRun:
    """What is run.

    Attributes:
        checkpoint: a float checkpoint folder for text classification.
        data: rows to calibrate and train on.
        evaluation: labelled rows to score on.
        out: a folder for what is made.
        gpu: the machine's.
        texts: how many rows calibrate.
        limit: how many rows score, None for all.
        seconds: time for one shape.
        rounds: timed training steps of each.
    """

    checkpoint: Path
    data: Path
    evaluation: Path
    out: Path
    gpu: Gpu
    texts: int = 512
    limit: int | None = None
    seconds: float = 10.0
    rounds: int = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The quantized model, its graph in INT8 and in FP16, and rows to score."""

    checkpoint: Checkpoint = field(repr=False)
    task: Task
    rows: Encoded = field(repr=False)
    graphs: Mapping[str, ExportedModel]


def require_gpu() -> Gpu:
    """The GPU of this machine.

    Raises:
        BuildError: torch finds none.
    """
    gpu = find_gpu()
    if gpu is None:
        cpu_build = torch.version.cuda is None
        mend = "run make clean, then make gpu, which installs torch with CUDA" if cpu_build else "check nvidia-smi"
        raise BuildError(
            f"this needs an NVIDIA GPU, and torch {torch.__version__} finds none on this machine: run it where there "
            f"is one; if there is one here, {mend}"
        )
    return gpu


def list_builders() -> list[BuilderName]:
    """The builders that are installed.

    Raises:
        BuildError: none is.
    """
    found: list[BuilderName] = [name for name, package in _BUILDERS.items() if find_spec(package) is not None]
    if not found:
        raise BuildError(
            "no engine builder is installed: pip install 'qdq[tensorrt]', or 'qdq[rtx]' for GeForce and RTX cards"
        )
    return found


def list_parts(run: GpuRun, builders: Sequence[BuilderName]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """What is done, each part by its name; a part that fails leaves the others standing."""
    prepared = prepare(run)
    for builder in builders:
        yield f"{builder} engines", partial(measure_engines, run, prepared, builder)
    yield "fused kernels", partial(measure_kernels, torch.device("cuda"), run.rounds)
    yield "QAT step", partial(measure_steps, run)


def prepare(run: GpuRun) -> Prepared:
    """The checkpoint calibrated as ``qdq calibrate`` does by default, and its graphs."""
    task = find_task(_TASK)
    checkpoint = load_checkpoint(run.checkpoint, task)
    plain = TaskRecord(name=task.name)
    training = encode_rows(checkpoint, task, plain, run.data, run.texts)
    rows = encode_rows(checkpoint, task, plain, run.evaluation, run.limit)
    stage = CalibrationStage(
        recipe=Recipe.load("tensorrt").for_target("rtx"),
        target="rtx",
        settings=CalibrationSettings(samples=run.texts),
        record=TaskRecord.of(task, {}, None, training, checkpoint.model.config),
        batch_size=_LARGEST_BATCH,
    )
    calibrate_checkpoint(checkpoint, [training], stage, out=run.out / "calibrated", inputs={"data": run.data})
    graph = trace_model(checkpoint.model)
    graphs = {
        name: write_exported(
            graph,
            checkpoint.model,
            run.out / name,
            lowering=Lowering(find_target("rtx"), "fp16", quantized=name == "int8"),
            tokenizer=checkpoint.tokenizer,
        )
        for name in ("int8", "fp16")
    }
    return Prepared(checkpoint=checkpoint, task=task, rows=rows, graphs=graphs)


def measure_engines(run: GpuRun, prepared: Prepared, builder: BuilderName) -> dict[str, Any]:
    """The INT8 engine and its FP16 twin of one builder: what they hold, what they answer, how long they take.

    Raises:
        BuildError: the builder refuses the graphs or this GPU.
    """
    engines = {name: _build(run, prepared, builder, name) for name in prepared.graphs}
    torch_answers = _score(prepared, TorchRunner(prepared.checkpoint.model))
    facts: dict[str, Any] = {"rows": len(prepared.rows), "fake quantization": torch_answers.value}
    with ExitStack() as stack:
        runners = {
            name: stack.enter_context(TensorRtRunner(each.path, precision=name)) for name, each in engines.items()
        }
        for name, runner in runners.items():
            answers = _score(prepared, runner)
            told = {each: value for each, value in asdict(engines[name].audit).items() if each != "rows"}
            same = share_agreeing(prepared.task, prepared.rows, torch_answers, answers)
            facts[name] = {"value": answers.value, "same_as_fake_quantization": same, "audit": told}
        longest = longest_row(prepared.checkpoint.model.config)
        shapes = [
            Workload(batch, min(tokens, longest), pad_id=prepared.checkpoint.pad_token_id) for batch, tokens in _SHAPES
        ]
        tokens = prepared.rows.sequences
        measured = measure_latency(list(runners.values()), list(dict.fromkeys(shapes)), tokens, seconds=run.seconds)
    names = list(runners) * len(set(shapes))
    facts["latency"] = [{"engine": name, **asdict(row)} for name, row in zip(names, measured, strict=True)]
    return facts


def measure_steps(run: GpuRun) -> dict[str, Any]:
    """Training steps of the quantized model beside those of the float one, on the GPU."""
    setting = Setting(
        checkpoint=run.checkpoint, data=run.data, texts=run.texts, batch_size=32, threads=torch.get_num_threads()
    )
    samples = time_steps(setting, rounds=run.rounds, clock=CLOCKS["wall"], environments=None)
    return {
        "costs": [asdict(each) for each in compare_steps(samples)],
        "samples_ms": {name: taken.milliseconds for name, taken in samples.items()},
    }


def _build(run: GpuRun, prepared: Prepared, builder: BuilderName, name: str) -> Engine:
    longest = longest_row(prepared.checkpoint.model.config)
    settings = BuildSettings(
        shapes=f"1x1,8x{min(64, longest)},{_LARGEST_BATCH}x{min(128, longest)}",
        hardware=(run.gpu.capability,) if builder == "rtx" else None,
    )
    out = run.out / f"{builder}-{name}.engine"
    return build(prepared.graphs[name].folder, out, builder=builder, settings=settings)


def _score(prepared: Prepared, runner: TorchRunner | TensorRtRunner) -> Accuracy:
    return measure_accuracy(
        runner, prepared.rows, prepared.task, pad_token_id=prepared.checkpoint.pad_token_id, batch_size=_LARGEST_BATCH
    )
