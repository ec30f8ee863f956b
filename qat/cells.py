"""Which heads there are of which family: every task on every family that transformers has a class for."""

from collections.abc import Iterator
from dataclasses import dataclass

from transformers import CONFIG_MAPPING, PreTrainedModel

from qat.families import Family, list_families
from qat.tasks import Task, list_tasks


@dataclass(frozen=True, slots=True)
class Cell:
    """One head of one family.

    Attributes:
        task: the head's task.
        kind: which of the task's heads, where it has several under one class.
        family: whose encoder it stands on.
        model_class: transformers' own class of the two.
    """

    task: Task
    kind: str | None
    family: Family
    model_class: type[PreTrainedModel]

    @property
    def head(self) -> str:
        """The task, and the kind where there is one.

        >>> {"fill-mask", "text-classification, regression"} <= {cell.head for cell in list_cells()}
        True
        """
        return name_head(self.task.name, self.kind)


def name_head(task: str, kind: str | None) -> str:
    """What tables call a head.

    >>> name_head("text-classification", "regression"), name_head("fill-mask", None)
    ('text-classification, regression', 'fill-mask')
    """
    return task if kind is None else f"{task}, {kind}"


def list_cells() -> Iterator[Cell]:
    """Every head of every family, by task and kind."""
    for task in list_tasks():
        for kind in task.kinds or (None,):
            for family in list_families():
                found = task.find_class(CONFIG_MAPPING[family.model_type])
                if found is not None:
                    yield Cell(task, kind, family, found)
