"""What engines hold in every placement and granularity, beside FP16 and FP32: ``python -m benchmarks.plans``.

TensorRT for RTX builds them without a GPU, and its plans depend on shapes and placement, not on ranges: no data is
read, nothing is calibrated. Kernels are counted twice, of the engine on dynamic shapes and of the graph exported for
one; bytes are that one's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import onnx_ir as ir
import typer

from benchmarks.environment import describe_environment
from benchmarks.placeholder_ranges import fill_ranges
from export.audit.engine_audit import EngineAudit, audit_table
from export.audit.layer_table import read_layer_table
from export.audit.products import read_products
from export.engine_build import build_engine
from export.engine_spec import EngineSpec, ShapeRange, parse_shapes
from export.exported import Lowering, lower_graph, trace_model
from export.settings import ExportSettings
from export.targets import find_target
from export.targets.base import Precision
from qat.artefacts import require_writable, write_json
from qat.checkpoint import load_checkpoint
from qat.console import print_json, say, show_stages
from qat.families import in_encoder_layer
from qat.huggingface import quantization_config, wrap
from qat.recipe import Recipe, WeightGranularity, validate_settings
from qat.split import split_outlier_neurons
from qat.tasks import find_task

RECIPES = ("linear", "tensorrt", "lean")
GRANULARITIES: tuple[WeightGranularity, ...] = ("per_tensor", "per_channel")
TARGETS = {"per_tensor": "rtx", "per_channel": "tensorrt"}
"""Whose lowering each granularity has; ``rtx`` in FP16 takes no scale a channel."""

DYNAMIC = "1x1,8x64,32x128"
_TASK = "text-classification"
_HARDWARE = ("sm_89",)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRow:
    """What one engine holds.

    Attributes:
        checkpoint: its folder's name.
        placement: the recipe, or ``float``.
        weights: their granularity, or ``-``.
        rest: the type of what is not INT8.
        int8_gemms: with ``int8_attentions`` what runs in INT8; ``float_gemms`` were planned and do not.
        kernels: on dynamic shapes; ``kernels_fixed`` of the graph for one shape.
        activation_mb: what the fixed engine's kernels read and write; ``share`` of what the FP16 engine's do.
        layer_bytes: a token, hidden unit and layer; ``to_least`` above the fewest that are possible.
    """

    checkpoint: str
    placement: str
    weights: str
    rest: Precision
    int8_gemms: int
    float_gemms: int
    int8_attentions: int
    kernels: int
    kernels_fixed: int
    activation_mb: float | None
    share: float | None
    layer_bytes: float | None
    to_least: float | None


class PlanTable:
    """The rows of one checkpoint, each built when it is asked for.

    Args:
        checkpoint: a float checkpoint's folder.
        shape: (batch, sequence) of the fixed engine.
        folder: for graphs that are built and thrown away.
    """

    def __init__(self, checkpoint: Path, shape: tuple[int, int], folder: Path) -> None:
        self._checkpoint = checkpoint
        self._shape = shape
        self._folder = folder
        self._half_mb: float | None = None

    def rows(self, recipes: Sequence[str]) -> Iterator[PlanRow]:
        """FP16 and FP32 without quantization, then every recipe in both granularities."""
        plain = self._trace("linear", "per_tensor")
        for rest in ("fp16", "fp32"):
            yield self._row(plain, Lowering(find_target("rtx"), rest, quantized=False), "float", "-")
        for weights, recipe in product(GRANULARITIES, recipes):
            graph = self._trace(recipe, weights)
            yield self._row(graph, Lowering(find_target(TARGETS[weights]), "fp16"), recipe, weights)

    def _trace(self, recipe: str, weights: WeightGranularity) -> ir.Model:
        model = load_checkpoint(self._checkpoint, find_task(_TASK)).model
        if weights == "per_tensor":
            split_outlier_neurons(model)
        wrap(model, Recipe.load(recipe).model_copy(update={"weights": weights}), target=TARGETS[weights])
        fill_ranges(model)
        quantization_config(model).task = {"name": _TASK}
        return trace_model(model)

    def _row(self, graph: ir.Model, lowering: Lowering, placement: str, weights: str) -> PlanRow:
        found, fixed = self._audit(graph, lowering)
        if placement == "float" and lowering.precision == "fp16":
            self._half_mb = found.activation_mb
        return PlanRow(
            checkpoint=self._checkpoint.name,
            placement=placement,
            weights=weights,
            rest=lowering.precision,
            int8_gemms=found.int8_gemms,
            float_gemms=found.float_gemms,
            int8_attentions=found.int8_attentions,
            kernels=found.kernels,
            kernels_fixed=fixed,
            activation_mb=found.activation_mb,
            share=found.activation_mb / self._half_mb if found.activation_mb and self._half_mb else None,
            layer_bytes=found.layer_bytes,
            to_least=found.layer_bytes_to_least,
        )

    def _audit(self, graph: ir.Model, lowering: Lowering) -> tuple[EngineAudit, int]:
        """The audit of the dynamic engine with the bytes of the fixed one, and the fixed one's kernels."""
        only = ExportSettings(shape=self._shape)
        paths = [self._folder / name for name in ("dynamic.onnx", "fixed.onnx")]
        ir.save(lower_graph(graph, lowering), paths[0])
        ir.save(
            lower_graph(
                graph, Lowering(lowering.target, lowering.precision, quantized=lowering.quantized, settings=only)
            ),
            paths[1],
        )
        shapes = (parse_shapes(DYNAMIC), ShapeRange.fixed(*self._shape))
        dynamic, fixed = (
            build_engine(path, EngineSpec(builder="rtx", shapes=each, hardware=_HARDWARE))
            for path, each in zip(paths, shapes, strict=True)
        )
        twin = read_layer_table(fixed.layer_table)
        audit = audit_table(
            read_products(paths[0]),
            read_layer_table(dynamic.layer_table),
            twin=twin,
            tokens=self._shape[0] * self._shape[1],
            macs=fixed.macs,
            in_encoder=in_encoder_layer,
        )
        return audit, sum(layer.is_kernel for layer in twin.layers)


def draw_rows(rows: Sequence[PlanRow]) -> str:
    """The rows as lines of text; unknown figures are ``-``."""
    head = (
        f"{'checkpoint':24} {'placement':9} {'weights':11} {'rest':4} {'INT8':>4} {'att':>3} {'lost':>4} {'kern':>4} "
        f"{'fix':>3} {'MB':>7} {'share':>6} {'bytes':>6} {'to 22':>6}"
    )
    lines = [
        f"{row.checkpoint:24} {row.placement:9} {row.weights:11} {row.rest:4} {row.int8_gemms:4} "
        f"{row.int8_attentions:3} {row.float_gemms:4} {row.kernels:4} {row.kernels_fixed:3} "
        f"{_figure(row.activation_mb, 7, 1)} {_figure(row.share, 6, 3)} {_figure(row.layer_bytes, 6, 1)} "
        f"{_figure(row.to_least, 6, 1)}"
        for row in rows
    ]
    return "\n".join([head, "-" * len(head), *lines])


def _figure(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def plans_command(
    checkpoints: Annotated[list[Path], typer.Argument(help="Float checkpoint folders.")],
    out: Annotated[Path, typer.Option(help="JSON file of all rows.")],
    shape: Annotated[str, typer.Option(help="BATCHxSEQUENCE of the fixed engines.")] = "8x128",
    only: Annotated[list[str] | None, typer.Option("--only", help="A recipe; may be given several times.")] = None,
) -> None:
    """Build every placement in both granularities and tell what the engines hold; the last line is JSON.

    Example: python -m benchmarks.plans my-bert my-albert --out plans.json
    """
    recipes = only or list(RECIPES)
    for recipe in recipes:
        Recipe.load(recipe)
    sizes = validate_settings(ExportSettings, {"shape": shape}, where="--shape").shape
    assert sizes is not None
    require_writable(out)
    rows: list[PlanRow] = []
    total = len(checkpoints) * (2 + len(GRANULARITIES) * len(recipes))
    with show_stages() as advance, TemporaryDirectory() as folder:
        for checkpoint in checkpoints:
            advance(checkpoint.name, len(rows), total)
            for row in PlanTable(checkpoint, sizes, Path(folder)).rows(recipes):
                rows.append(row)
                advance(f"{row.checkpoint} {row.placement} {row.weights} {row.rest}", len(rows), total)
                write_json(out, _describe(sizes, rows))
    say(f"plans of TensorRT for RTX at {shape}, dynamic {DYNAMIC}\n{draw_rows(rows)}")
    print_json({"out": str(out), "rows": [asdict(row) for row in rows]})


def _describe(shape: tuple[int, int], rows: Sequence[PlanRow]) -> dict[str, object]:
    return {
        "fixed": list(shape),
        "dynamic": DYNAMIC,
        "hardware": list(_HARDWARE),
        "rows": [asdict(row) for row in rows],
        "environment": describe_environment(),
    }


if __name__ == "__main__":
    typer.run(plans_command)
