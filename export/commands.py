"""``qdq export``, ``build``, ``audit``, ``lint``: from a calibrated checkpoint to an engine and what it really runs."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from export.audit.share import explain_shortfall, require_share
from export.convolutions import read_convolutions
from export.engine import BuildSettings, audit, build
from export.engine_spec import BuilderName
from export.exported import export
from export.lint import lint
from export.lint_rules import ENGINES
from export.settings import ExportSettings
from qat.artefacts import require_writable
from qat.commands import load_quantized
from qat.console import print_json, print_table, say, show_progress
from qat.options import CheckpointArgument, JsonOption, OutOption, SetOption, TaskOption
from qat.recipe import validate_settings
from qat.settings import parse_overrides, require_stages

FolderArgument = Annotated[Path, typer.Argument(help="Exported folder, or an ONNX file.")]
ShapesOption = Annotated[
    str | None,
    typer.Option("--shapes", help="BATCHxSEQUENCE: smallest,usual,largest; several profiles with ';' between them."),
]
BucketsOption = Annotated[
    str | None, typer.Option("--buckets", help="Sequence lengths, a profile each: 32,64,128; the last is the longest.")
]
TimingCacheOption = Annotated[
    Path | None, typer.Option("--timing-cache", help="Folder for TensorRT's timings; default: one beside the engine.")
]
FailUnderOption = Annotated[
    float | None,
    typer.Option("--fail-under", help="Exit 1 if a smaller share of the planned products runs in INT8: 1 is all."),
]
HardwareOption = Annotated[str | None, typer.Option("--hardware", help="Compute capabilities: sm_86,sm_89,sm_120.")]


def export_command(
    checkpoint: CheckpointArgument,
    out: OutOption,
    target: Annotated[str | None, typer.Option("--target", help="Default: the one it was calibrated for.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="Of the rest: fp16, bf16 or fp32.")] = None,
    task: TaskOption = None,
    data: Annotated[Path | None, typer.Option("--data", help="Rows to measure what would overflow FP16.")] = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lower a calibrated checkpoint to a Q/DQ ONNX graph.

    Example: qdq export finetuned --out onnx --data dev.jsonl
    Example: qdq export finetuned --out onnx --set export.shape=8x128
    """
    chosen = read_export_settings(data, settings)
    with show_progress("export"):
        loaded, _, _ = load_quantized(checkpoint, task)
        require_writable(out)
        made = export(
            loaded.model, out, tokenizer=loaded.tokenizer, target=target, precision=precision, settings=chosen
        )
    size = made.onnx_path.stat().st_size
    shape = "any" if made.shape is None else "x".join(map(str, made.shape))
    print_table(
        f"{made.onnx_path}",
        ("target", "precision", "shape", "MB"),
        [(made.target, f"int8+{made.precision}", shape, size / 1e6)],
    )
    if made.overflows:
        print_table(
            "near FP16's largest number, 65504: kept in FP32",
            ("node", "largest", "readers"),
            [(each.node, f"{each.largest:.4g}", ", ".join(each.readers)) for each in made.overflows],
        )
    if as_json:
        kept = None if made.overflows is None else [each.node for each in made.overflows]
        facts = {"out": str(out), "target": made.target, "precision": made.precision, "shape": made.shape}
        print_json({**facts, "bytes": size, "overflow": kept})


def build_command(
    folder: FolderArgument,
    out: OutOption,
    builder: Annotated[BuilderName | None, typer.Option("--builder", help="tensorrt or rtx.")] = None,
    shapes: ShapesOption = None,
    buckets: BucketsOption = None,
    hardware: HardwareOption = None,
    timing_cache: TimingCacheOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build the engine of an exported folder and audit it; one that is up to date is kept.

    Example: qdq build onnx --out model.engine --shapes 1x1,8x64,32x128 --buckets 32,64,128 --hardware sm_89
    """
    options = {"shapes": shapes, "buckets": buckets, "hardware": hardware, "timing_cache": timing_cache}
    chosen = read_build_settings(options, settings)
    with show_progress("build") as advance:
        engine = build(
            folder,
            out,
            builder=builder,
            settings=chosen,
            progress=lambda phase, share: advance(round(100 * share), 100),
        )
    because = engine.built_because
    show_audit(f"{out}: {f'built, {because}' if because else 'up to date, kept as it is'}", engine.audit)
    if as_json:
        facts = {"out": str(out), "reused": not because, "hardware": list(engine.built.hardware)}
        print_json({**facts, **asdict(engine.audit)})


def audit_command(
    artefact: Annotated[Path, typer.Argument(help="Exported folder, ONNX file, or engine file.")],
    shapes: ShapesOption = None,
    hardware: HardwareOption = None,
    fail_under: FailUnderOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what really runs in INT8, and why the rest does not.

    Example: qdq audit onnx --hardware sm_89 --fail-under 1
    """
    require_share(fail_under)
    chosen = read_build_settings({"shapes": shapes, "hardware": hardware}, settings)
    with show_progress("audit") as advance:
        found = audit(artefact, settings=chosen, progress=lambda phase, share: advance(round(100 * share), 100))
    show_audit(str(artefact), found)
    convolutions = read_convolutions(artefact)
    if convolutions:
        print_table(
            "convolutions",
            ("module", "was", "became"),
            [(each["module"], each["was"], each["became"]) for each in convolutions],
        )
    if as_json:
        print_json({**asdict(found), "convolutions": convolutions})
    shortfall = "" if fail_under is None else explain_shortfall(found, fail_under)
    if shortfall:
        say(f"{artefact}: {shortfall}")
        raise typer.Exit(1)


def lint_command(
    model: Annotated[Path, typer.Argument(help="Any ONNX file.")],
    target: Annotated[str, typer.Option("--target", help=f"Whose rules: {', '.join(ENGINES)}.")] = "tensorrt",
    as_json: JsonOption = False,
) -> None:
    """Check any ONNX graph against the rules of its engine; exits 1 where it breaks one.

    Example: qdq lint model.onnx
    """
    with show_progress("lint"):
        report = lint(model, target=target)
    print_table(
        f"{model}: {len(report.findings)} findings in {report.nodes} nodes",
        ("severity", "rule", "node", "what to do"),
        [(each.severity, each.rule, each.node, each.message) for each in report.findings],
    )
    if as_json:
        print_json(asdict(report))
    if any(each.severity == "error" for each in report.findings):
        raise typer.Exit(1)


def read_export_settings(data: Path | None, settings: list[str] | None) -> ExportSettings:
    """The export settings from ``--data`` and ``--set export.``; the option wins."""
    overrides = parse_overrides(settings or [])
    require_stages(overrides, ("export",))
    values = {**overrides.get("export", {}), **({} if data is None else {"data": data})}
    return validate_settings(ExportSettings, values, where="export settings")


def read_build_settings(options: Mapping[str, object], settings: list[str] | None) -> BuildSettings:
    """The build settings from the options given and ``--set build.``; an option wins."""
    overrides = parse_overrides(settings or [])
    require_stages(overrides, ("build",))
    values: dict[str, Any] = dict(overrides.get("build", {}))
    values |= {name: value for name, value in options.items() if value is not None}
    for name in ("buckets", "hardware", "features"):
        if isinstance(values.get(name), str | int):
            parts = [part.strip() for part in str(values[name]).split(",") if part.strip()]
            values[name] = tuple(int(part) if name == "buckets" and part.isdecimal() else part for part in parts)
    return validate_settings(BuildSettings, values, where="build settings")


def show_audit(title: str, found: Any) -> None:
    """An audit as a table: the counts, then every product that is not INT8 with its reason."""
    facts = {name: value for name, value in asdict(found).items() if name not in ("rows", "operations")}
    print_table(title, ("fact", "value"), list(facts.items()))
    lost = [row for row in found.rows if row.reason]
    if lost:
        print_table("not INT8", ("planned", "node", "why"), [(row.planned, row.name, row.reason) for row in lost])
