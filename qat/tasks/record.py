"""The record of a task in a quantized folder: its name and how its data was read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedConfig

from qat.errors import CheckpointError, DataError
from qat.tasks import find_task
from qat.tasks.base import Encoded, Task

KNOWN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRecord:
    """What a quantized folder remembers of its task, so that later stages need not be told again.

    Attributes:
        name: the task.
        columns: the task's columns as the data called them.
        max_length: tokens a row kept, None for the most the checkpoint takes.
        inputs: the model's inputs.
        outputs: the fields of its output that are used.
        axes: of its inputs, dynamic ones by name; in multiple choice one is the number of choices.
    """

    name: str
    columns: dict[str, str] = field(default_factory=dict)
    max_length: int | None = None
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    outputs: tuple[str, ...] = ("logits",)
    axes: tuple[int | str, ...] = ("batch", "sequence")

    @classmethod
    def of(
        cls,
        task: Task,
        columns: Mapping[str, str],
        max_length: int | None,
        rows: Encoded,
        config: PreTrainedConfig,
    ) -> Self:
        """The record of a task whose rows were read and encoded this way for a checkpoint of that configuration."""
        return cls(
            name=task.name,
            columns=dict(columns),
            max_length=max_length,
            inputs=tuple(name for name in KNOWN_INPUTS if name in rows[0]),
            outputs=task.name_outputs(config),
            axes=rows.axes,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "inputs": list(self.inputs), "outputs": list(self.outputs), "axes": list(self.axes)}


def read_task_record(config: PreTrainedConfig, *, folder: Path, given: str | None) -> TaskRecord:
    """The record in a folder's configuration, with the task's name ``given`` where it has none.

    What it does not say is the task's own; a model that never saw rows takes every input it knows.

    Raises:
        DataError: neither the folder nor ``given`` says the task.
        CheckpointError: a record that is not one.
    """
    stored = getattr(config, "quantization_config", None)
    values = (dict(stored).get("task") or {}) if stored else {}
    try:
        name = given or dict(values).get("name")
        if name is None:
            raise DataError(f"{folder} does not say its task: add --task, for instance --task text-classification")
        task = find_task(str(name))
        task.adopt(config, folder)
        usual = {
            "inputs": KNOWN_INPUTS if getattr(config, "type_vocab_size", 0) > 1 else KNOWN_INPUTS[:2],
            "outputs": task.name_outputs(config),
            "axes": task.axes,
        }
        record = TaskRecord(**{**usual, **values, "name": task.name})
        return replace(record, inputs=tuple(record.inputs), outputs=tuple(record.outputs), axes=tuple(record.axes))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}/config.json: quantization_config.task is damaged ({error}): calibrate the float checkpoint again"
        ) from error
