"""How a server will run an artefact: what the user left open is decided, what cannot be is refused."""

from collections.abc import Mapping
from dataclasses import dataclass

from export.deploy.settings import Backend, DeploySettings, Provider
from export.deploy.source import Source
from export.engine_spec import ShapeRange, find_profile, parse_shapes
from qat.errors import BuildError, ExportError

_DEFAULT = "1x16,8x64,32x128"
_PROVIDERS: Mapping[object, Provider] = {"rtx": "tensorrt", "tensorrt": "tensorrt"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a server's configuration says beside the graph's inputs and outputs.

    Attributes:
        backend: Triton's.
        provider: of ONNX Runtime; None for an engine.
        instances: on each GPU or on the CPU.
        max_batch: rows the server puts together; 0 where the graph takes one shape only.
        shapes: (rows, tokens) that the server runs before it answers, the smallest first.
        queue_delay: microseconds a request waits for others.
        profiles: how many an engine has.
    """

    backend: Backend
    provider: Provider | None
    instances: int
    max_batch: int
    shapes: tuple[tuple[int, int], ...]
    queue_delay: int
    profiles: int

    @property
    def preferred(self) -> list[int]:
        """The batches that are sent off at once: those of the shapes, and the largest."""
        return sorted({rows for rows, _ in self.shapes if rows > 1} | ({self.max_batch} - {0, 1}))


def make_plan(source: Source, settings: DeploySettings) -> Plan:
    """The plan for an artefact.

    Raises:
        BuildError: an engine that Triton does not run, or shapes or a batch outside its profiles.
        ExportError: a backend or provider that does not run the artefact, or shapes that it does not take.
    """
    backend = _choose_backend(source, settings)
    max_batch, shapes = _choose_shapes(source, settings)
    return Plan(
        backend=backend,
        provider=None if backend == "tensorrt" else _choose_provider(source, settings),
        instances=settings.instances,
        max_batch=max_batch,
        shapes=shapes,
        queue_delay=settings.queue_delay,
        profiles=len(source.profiles),
    )


def explain_batch(max_batch: int, profiles: tuple[ShapeRange, ...]) -> str:
    """Why an engine does not take batches up to that size; empty where it does."""
    largest = max(profile.batch[2] for profile in profiles)
    if max_batch <= largest:
        return ""
    return (
        f"max_batch_size {max_batch} was given, but the engine's profiles take up to {largest} rows "
        f"({'; '.join(map(str, profiles))}): give --max-batch {largest}, or build the engine again with --shapes that "
        f"hold {max_batch} rows"
    )


def _choose_backend(source: Source, settings: DeploySettings) -> Backend:
    if source.engine is None:
        if settings.backend == "tensorrt":
            raise ExportError(
                f"{source.path} is a graph, and the tensorrt backend runs engines: build one with qdq build and give "
                "that, or give --backend onnxruntime --provider tensorrt"
            )
        return "onnxruntime"
    if settings.backend == "onnxruntime":
        raise ExportError(
            f"{source.path} is an engine, which the onnxruntime backend does not run: give {source.folder}, or leave "
            "--backend out"
        )
    if settings.provider is not None:
        raise ExportError(
            f"--provider {settings.provider} is ONNX Runtime's, but {source.path} is an engine: leave it out, or give "
            f"{source.folder}"
        )
    builder = source.engine["builder"]["name"]
    if builder != "tensorrt":
        raise BuildError(
            f"{source.path} was built by {builder} (TensorRT for RTX), but Triton's tensorrt backend loads engines of "
            f"TensorRT only: build it with --builder tensorrt, or deploy {source.folder}, whose graph ONNX Runtime runs"
        )
    return "tensorrt"


def _choose_provider(source: Source, settings: DeploySettings) -> Provider:
    provider = settings.provider or _PROVIDERS.get(source.facts.get("target"), "cpu")
    if provider == "cpu" and source.facts.get("precision") == "bf16":
        raise ExportError(
            f"{source.path} is in BF16, which ONNX Runtime does not compute on a CPU: give --provider tensorrt, or "
            "export it again with --precision fp16 or fp32"
        )
    return provider


def _choose_shapes(source: Source, settings: DeploySettings) -> tuple[int, tuple[tuple[int, int], ...]]:
    """The largest batch and the shapes to warm up at."""
    if not source.interface.batched:
        return 0, (_fixed_shape(source, settings),)
    asked = _asked_range(source, settings)
    max_batch = settings.max_batch or asked.batch[2]
    shapes = tuple(dict.fromkeys(zip(asked.batch, asked.sequence, strict=True)))
    rows, tokens = shapes[-1]
    if rows > max_batch:
        raise ExportError(
            f"--shapes warm up batches of {rows}, but --max-batch is {max_batch}: give shapes of up to {max_batch} rows"
        )
    if tokens > source.longest:
        raise ExportError(
            f"--shapes warm up rows of {tokens} tokens, but the model takes {source.longest}: give sequences of up to "
            f"{source.longest}"
        )
    if source.profiles:
        too_large = explain_batch(max_batch, source.profiles)
        if too_large:
            raise BuildError(too_large)
        for shape in shapes:
            find_profile(source.profiles, *shape)
    return max_batch, shapes


def _asked_range(source: Source, settings: DeploySettings) -> ShapeRange:
    if settings.shapes is not None:
        return parse_shapes(settings.shapes)
    if source.profiles and settings.max_batch is None:
        return source.profiles[-1]
    usual = parse_shapes(_DEFAULT)
    most = settings.max_batch or usual.batch[2]
    if source.profiles:
        usual, most = source.profiles[-1], min(most, source.profiles[-1].batch[2])
    return ShapeRange(
        batch=(min(usual.batch[0], most), min(usual.batch[1], most), most),
        sequence=(
            min(usual.sequence[0], source.longest),
            min(usual.sequence[1], source.longest),
            min(usual.sequence[2], source.longest),
        ),
    )


def _fixed_shape(source: Source, settings: DeploySettings) -> tuple[int, int]:
    """The (rows, tokens) of a graph of one shape, which a server can put no requests together for."""
    axes = source.interface.inputs[0].axes
    if not all(isinstance(axis, int) for axis in axes):
        raise ExportError(
            f"{source.onnx_path} has the axes {axes}: expected a batch of any size first, or numbers only; export it "
            "again with qdq export"
        )
    shape = int(axes[0]), int(axes[-1])
    written = "x".join(map(str, shape))
    if settings.max_batch is not None:
        raise ExportError(
            f"--max-batch {settings.max_batch} was given, but {source.path} takes {written} only, which a server "
            "cannot batch: leave it out, or export again without export.shape"
        )
    if settings.shapes is not None and settings.shapes != written:
        raise ExportError(
            f"--shapes {settings.shapes} were given, but {source.path} takes {written} only: leave them out, or export "
            "again without export.shape"
        )
    return shape
