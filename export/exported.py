"""The exported folder: a graph lowered for one target with all that is needed to run it, and its manifest."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from inspect import signature
from itertools import takewhile
from pathlib import Path
from typing import get_args

import onnx
import onnx_ir as ir
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from export.convolutions import list_convolutions
from export.decoder_graphs import STEP_FILE, keeps_past, trace_prompt, trace_step
from export.onnx_export import AXES, trace_graph
from export.overflow import Feed, Overflow, find_overflows, read_probe_rows
from export.passes.drop_unit_gains import DropUnitGains
from export.passes.fix_shapes import FixShapes
from export.passes.fold_shapes import FoldShapes
from export.passes.half_precision import HalfPrecision
from export.passes.int8_embeddings import Int8Embeddings
from export.passes.strip_metadata import StripMetadata
from export.passes.strip_quantization import StripQuantization
from export.passes.tie_tables import TieTables
from export.settings import ExportSettings, Input
from export.targets import Target, find_target
from export.targets.base import Precision
from qat.artefacts import atomic_folder, write_manifest
from qat.errors import ExportError
from qat.families import longest_row
from qat.huggingface import QDQConfig, quantization_config
from qat.origin import digest_model
from qat.quantizer import quantizers_without_range
from qat.vocabulary import fingerprint_vocabulary

MODEL_FILE = "model.onnx"
_INPUTS = ("input_ids", "attention_mask")
_OUTPUTS = ("logits",)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedModel:
    """An exported folder and what is in it.

    Attributes:
        folder: holds ``model.onnx`` (of a decoder ``model_with_past.onnx`` as well), ``config.json``, the tokenizer and
            the manifest.
        target: the engine it was lowered for.
        precision: what everything that is not INT8 runs in.
        quantized: False for the float twin.
        overflows: the values that stay in FP32, None where no rows were given to measure them.
        shape: the one (batch, sequence) it takes, None where it takes any.
    """

    folder: Path
    target: str
    precision: Precision
    quantized: bool
    overflows: tuple[Overflow, ...] | None = None
    shape: tuple[int, int] | None = None

    @property
    def onnx_path(self) -> Path:
        """The graph."""
        return self.folder / MODEL_FILE


@dataclass(frozen=True, slots=True)
class Lowering:
    """What to make of a traced graph: for which target, in which precision, quantized or its float twin."""

    target: Target
    precision: Precision
    quantized: bool = field(default=True, kw_only=True)
    settings: ExportSettings = field(default=ExportSettings(), kw_only=True)
    overflows: tuple[Overflow, ...] | None = field(default=None, kw_only=True)

    def passes(self) -> Iterator[ir.passes.PassBase]:
        """The passes, in order; the float twin keeps its embeddings in float, values that would overflow stay FP32.

        Axes are fixed last: every pass before reads them by name, and so lowers one graph, whatever its shape will be.
        """
        yield DropUnitGains()
        yield FoldShapes()
        yield TieTables()
        if not self.quantized:
            yield StripQuantization()
        elif self.settings.embeddings == "int8":
            yield Int8Embeddings(self.target.embedding_order)
        for step in self.target.passes[self.precision]():
            if self.overflows and isinstance(step, HalfPrecision):
                yield HalfPrecision(step.dtype, keep=[name for each in self.overflows for name in each.keep])
            else:
                yield step
        if self.settings.shape is not None:
            yield FixShapes(dict(zip(AXES, self.settings.shape, strict=True)))
        yield StripMetadata()


def export(
    model: PreTrainedModel,
    out: Path | str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    target: str | None = None,
    precision: str | None = None,
    settings: ExportSettings | None = None,
) -> ExportedModel:
    """The exported folder at ``out``.

    Args:
        model: calibrated, on the CPU.
        out: a folder to make, or to replace as a whole.
        tokenizer: written beside the graph.
        target: whose lowering; None for the one the checkpoint was calibrated for.
        precision: ``fp32``, ``fp16`` or ``bf16``; None for the target's own.
        settings: of the export stage.

    Raises:
        CheckpointError: the model is not quantized.
        DataError: rows to probe that the model's task cannot use.
        ExportError: it is not calibrated, its weight granularity is not the target's, or a shape it does not take.
        OutputError: ``out`` cannot be written.
    """
    config = quantization_config(model)
    chosen = find_target(target or config.target)
    lowering = Lowering(chosen, chosen.choose_precision(precision), settings=settings or ExportSettings())
    require_exportable(model, config, lowering.target, lowering.precision)
    _require_traceable(model, lowering.settings)
    graph, step = trace_model(model, lowering.settings.inputs), trace_next(model)
    if lowering.settings.data is not None and lowering.precision == "fp16":
        if tokenizer is None:
            raise ExportError("rows to probe for overflow were given without a tokenizer to encode them: give both")
        feeds = read_probe_rows(model, tokenizer, lowering.settings.data, limit=lowering.settings.rows)
        lowering = replace(lowering, overflows=probe_overflow(graph, lowering, feeds))
    return write_exported(graph, model, Path(out), lowering=lowering, tokenizer=tokenizer, step=step)


def probe_overflow(graph: ir.Model, lowering: Lowering, feeds: Sequence[Feed]) -> tuple[Overflow, ...]:
    """The values of the lowered graph, before it becomes FP16, that come near what FP16 holds."""
    probed = graph.clone()
    for step in takewhile(lambda step: not isinstance(step, HalfPrecision), lowering.passes()):
        step(probed)
    return tuple(find_overflows(probed, feeds, margin=lowering.settings.margin))


def require_exportable(model: PreTrainedModel, config: QDQConfig, target: Target, precision: Precision) -> None:
    """Passes when every quantizer has a range and the target runs this granularity.

    Raises:
        ExportError: one of them does not hold.
    """
    missing = quantizers_without_range(model)
    if config.state == "uncalibrated" or missing:
        named = f" ({', '.join(missing[:3])}, ...)" if missing else ""
        raise ExportError(
            f"the model is not calibrated: {len(missing)} quantizers have no range{named}; run qdq calibrate first"
        )
    target.require_granularity(config.recipe.weights, precision)


def _require_traceable(model: PreTrainedModel, settings: ExportSettings) -> None:
    """Passes when there is a graph of that model and shape.

    Raises:
        ExportError: it attends to another model's states, or takes no such shape.
    """
    if getattr(model.config, "add_cross_attention", False):
        raise ExportError(
            "a decoder with cross-attention has no graphs here (add_cross_attention is true in its config.json): it "
            "reads another model's states, which no input holds; run it in torch, or export a decoder without it"
        )
    if settings.shape is not None and keeps_past(model):
        raise ExportError(
            f"export.shape {'x'.join(map(str, settings.shape))} was asked for, but a decoder has one token more at "
            "each step: export it without export.shape"
        )
    if settings.inputs is not None and keeps_past(model):
        raise ExportError(
            f"export.inputs {', '.join(settings.inputs)} was asked for, but the graphs of a decoder have inputs of "
            "their own: export it without export.inputs"
        )
    longest = longest_row(model.config)
    if settings.shape is not None and settings.shape[1] > longest:
        raise ExportError(
            f"export.shape {'x'.join(map(str, settings.shape))} has {settings.shape[1]} tokens a row, but the model "
            f"takes {longest}: give a sequence of up to {longest}"
        )


def trace_model(model: PreTrainedModel, inputs: Sequence[str] | None = None) -> ir.Model:
    """The graph before any lowering, with the inputs and outputs of the task the model was calibrated for.

    Of a model that generates it is the one that reads a prompt.

    Raises:
        ExportError: other ``inputs`` are given, and the model takes one of them not.
    """
    task = quantization_config(model).task
    inputs = task.get("inputs", _INPUTS) if inputs is None else _require_inputs(model, inputs)
    outputs: Sequence[str] = task.get("outputs", _OUTPUTS)
    if keeps_past(model):
        return trace_prompt(model, inputs=inputs, outputs=outputs)
    return trace_graph(model, inputs=inputs, outputs=outputs, axes=tuple(task.get("axes", AXES)))


def trace_next(model: PreTrainedModel) -> ir.Model | None:
    """The graph of one token more, before any lowering; None for a model that does not generate."""
    outputs: Sequence[str] = quantization_config(model).task.get("outputs", _OUTPUTS)
    return trace_step(model, outputs=outputs) if keeps_past(model) else None


def _require_inputs(model: PreTrainedModel, inputs: Sequence[str]) -> Sequence[str]:
    if keeps_past(model):
        raise ExportError("a model that generates reads tokens and its past: leave export.inputs out")
    takes = signature(model.forward).parameters
    for name in inputs:
        if name not in takes:
            known = ", ".join(each for each in get_args(Input) if each in takes)
            raise ExportError(f"export.inputs names {name}, which {type(model).__name__} does not take: known: {known}")
    return inputs


def lower_graph(graph: ir.Model, lowering: Lowering) -> ir.Model:
    """A copy of a traced graph, lowered; without quantization it is the float twin.

    Raises:
        ExportError: a pass found the graph not to be what it needs.
    """
    lowered = graph.clone()
    target = lowering.target
    for step in lowering.passes():
        try:
            step(lowered)
        except ir.passes.InvariantError as error:
            name = type(step).__name__
            raise ExportError(f"target '{target.name}', pass {name}: {error.__cause__ or error}") from error
    return lowered


def write_exported(
    graph: ir.Model,
    model: PreTrainedModel,
    out: Path,
    *,
    lowering: Lowering,
    tokenizer: PreTrainedTokenizerBase | None,
    step: ir.Model | None = None,
) -> ExportedModel:
    """The exported folder of a traced graph, and of the ``step`` behind it; a traced graph serves several targets."""
    lowered = lower_graph(graph, lowering)
    graphs = {MODEL_FILE: lowered} | ({} if step is None else {STEP_FILE: lower_graph(step, lowering)})
    with atomic_folder(out) as staging:
        for name, each in graphs.items():
            ir.save(each, staging / name)
            onnx.checker.check_model(staging / name, full_check=True)
        model.config.save_pretrained(staging)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
        facts = {
            "origin": describe_export(model, tokenizer, lowering),
            "target": lowering.target.name,
            "precision": lowering.precision,
            "quantized": lowering.quantized,
            "settings": lowering.settings.model_dump(mode="json"),
            "recipe": quantization_config(model).recipe.model_dump(mode="json"),
            "graphs": dict(zip(("whole", "step"), graphs, strict=False)),
            "inputs_of_graph": [value.name for value in lowered.graph.inputs],
            "outputs_of_graph": [value.name for value in lowered.graph.outputs],
            "token_outputs": [value.name for value in graph.graph.outputs if _has_tokens(value)],
            "overflow": None if lowering.overflows is None else [asdict(each) for each in lowering.overflows],
            "vocabulary": None if tokenizer is None else fingerprint_vocabulary(tokenizer),
            "bytes": sum((staging / name).stat().st_size for name in graphs),
            "convolutions": [asdict(each) for each in list_convolutions(graph, lowered)],
        }
        source = str(model.config.name_or_path)  # empty for a model that was never on disk
        inputs = {"checkpoint": Path(source)} if source else {}
        write_manifest(staging, stage="export", inputs=inputs, facts=facts)
    return ExportedModel(
        folder=out,
        target=lowering.target.name,
        precision=lowering.precision,
        quantized=lowering.quantized,
        overflows=lowering.overflows,
        shape=lowering.settings.shape,
    )


def describe_export(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, lowering: Lowering
) -> dict[str, object]:
    """What ``write_exported`` makes its folder from; the same origin gives the same graph."""
    return {
        "checkpoint": digest_model(model),
        "vocabulary": None if tokenizer is None else fingerprint_vocabulary(tokenizer),
        "target": lowering.target.name,
        "precision": lowering.precision,
        "quantized": lowering.quantized,
        "settings": lowering.settings.model_dump(mode="json"),
        "overflow": None if lowering.overflows is None else [asdict(each) for each in lowering.overflows],
    }


def _has_tokens(output: ir.Value) -> bool:
    """Whether an output of a traced graph has one answer a token, and not one a row."""
    return output.shape is not None and len(output.shape) > 1 and output.shape[1] == ir.SymbolicDim(AXES[1])
