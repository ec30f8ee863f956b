"""The installed engine builders: TensorRT 10 and 11 and TensorRT for RTX behind one set of calls.

What a release offers is asked of its module by attribute, never by its version.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import Any

from export.engine_spec import BuilderName, EngineSpec, Feature
from qat.errors import BuildError, suggest

Progress = Callable[[str, float], None]
_MODULES: Mapping[BuilderName, str] = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
_FLAGS: Mapping[Feature, str] = {"version_compatible": "VERSION_COMPATIBLE", "refittable": "REFIT"}
_TABLE = "Layers:"


@dataclass
class BuildLog:
    """What one build said: its errors and warnings, and the layer table where it printed one."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    @property
    def layer_table(self) -> str | None:
        """The table of the last build, or ``None``."""
        return self.tables[-1] if self.tables else None


def load_builder(name: BuilderName) -> Any:
    """The builder's module.

    Raises:
        BuildError: an unknown builder, or one that is not installed.
    """
    module = _MODULES.get(name)
    if module is None:
        raise BuildError(f"unknown builder {name!r}; {suggest(name, _MODULES)}")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BuildError(
            f"the {name} builder needs the package {module}, which cannot be imported ({error}); "
            f"install it: pip install 'qdq[{name}]'"
        ) from error


def hardware_names(trt: Any) -> dict[str, Any]:
    """The targets that a builder can build for ahead of time, ``sm_89`` style; empty: only this machine's GPU."""
    known = getattr(trt, "ComputeCapability", None)
    if known is None:
        return {}
    members = known.__members__.items()
    return {f"sm_{name[2:]}": value for name, value in members if name.startswith("SM")}


def find_hardware(trt: Any, builder: BuilderName, hardware: tuple[str, ...]) -> list[Any]:
    """The builder's own value of every target named.

    Raises:
        BuildError: a target that the builder lacks, one named twice, or any where it builds for this machine only.
    """
    known = hardware_names(trt)
    given = ", ".join(hardware)
    if hardware and not known:
        raise BuildError(
            f"hardware {given} was given, but the {builder} builder builds for this machine's GPU only; "
            "leave --hardware out, or use --builder rtx"
        )
    for name in hardware:
        if name not in known:
            raise BuildError(f"hardware {name!r} is no target of the {builder} builder; {suggest(name, known)}")
    if len(set(hardware)) != len(hardware):
        raise BuildError(f"hardware {given} names a target twice; name each once")
    return [known[name] for name in hardware]


def set_features(trt: Any, config: Any, spec: EngineSpec) -> None:
    """The builder's flag of every feature asked for, set.

    Raises:
        BuildError: a feature that the builder lacks.
    """
    for feature in spec.features:
        flag = getattr(trt.BuilderFlag, _FLAGS[feature], None)
        if flag is None:
            raise BuildError(
                f"feature '{feature}' was asked for, but the {spec.builder} builder {trt.__version__} lacks it; "
                "leave it out of build.features, or use another builder"
            )
        config.set_flag(flag)


def make_builder(trt: Any, logger: Any, name: BuilderName) -> Any:
    """The module's ``Builder``.

    Raises:
        BuildError: the library found no driver, where it needs one.
    """
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # TypeError: how the bindings report a null pointer
        said = " ".join(str(error).split())
        raise BuildError(
            f"the {name} builder cannot start on this machine ({said}); it needs an NVIDIA GPU and driver; "
            "--builder rtx builds without one"
        ) from error


@contextmanager
def record_log(trt: Any) -> Iterator[tuple[Any, BuildLog]]:
    """The process's logger for this builder, and the log that it fills until the block ends."""
    logger, lock = _make_logger(trt)
    with lock:
        logger.record = BuildLog()
        try:
            yield logger, logger.record
        finally:
            logger.record = BuildLog()


@cache
def _make_logger(trt: Any) -> tuple[Any, Lock]:
    """One logger a process: TensorRT keeps the first it is given and warns about any other."""

    class TableLogger(trt.ILogger):  # type: ignore[misc]  # the bindings carry no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.record = BuildLog()

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.record.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                self.record.warnings.append(message)
            elif message.startswith(_TABLE):
                self.record.tables.append(message)

    return TableLogger(), Lock()


def make_monitor(trt: Any, progress: Progress) -> Any:
    """A progress monitor that hands ``progress`` the phase and the share of the whole build done, 0 to 1.

    An exception of ``progress`` must not unwind through the builder: it cancels the build and waits in ``failure``.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the bindings carry no types
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.tree = PhaseTree()
            self.failure: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.tree.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            share = self.tree.step(phase_name, step)
            if self.failure is None:
                try:
                    progress(phase_name, share)
                except BaseException as error:  # noqa: BLE001 - raised again when the builder has returned
                    self.failure = error
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            self.tree.finish(phase_name)

    return Monitor()


@dataclass
class PhaseTree:
    """Nested build phases folded into one share of the whole, which never falls.

    >>> tree = PhaseTree()
    >>> tree.start("all", None, 2); tree.start("part", "all", 4)
    >>> tree.step("part", 1), tree.step("all", 0)
    (0.25, 0.5)
    """

    _parents: dict[str, str | None] = field(default_factory=dict)
    _steps: dict[str, int] = field(default_factory=dict)
    _done: dict[str, int] = field(default_factory=dict)
    _share: float = 0.0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins inside ``parent``."""
        self._parents[phase], self._steps[phase], self._done[phase] = parent, max(steps, 1), 0

    def step(self, phase: str, step: int) -> float:
        """The share of the whole done when ``step``, counted from 0, of ``phase`` has ended."""
        self._done[phase] = step + 1
        share, current = 0.0, phase
        while current in self._steps:
            share = min((self._done[current] + share) / self._steps[current], 1.0)
            current = self._parents[current] or ""
        self._share = max(self._share, share)
        return self._share

    def finish(self, phase: str) -> None:
        """A phase ends, early where its build was cancelled."""
        for state in (self._parents, self._steps, self._done):
            state.pop(phase, None)
