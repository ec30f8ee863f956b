"""Heads and families as the registry has them: each has a tiny one that the tests take the whole way."""

from qat.cells import list_cells
from qat.families import list_families
from qat.tasks import list_tasks
from tests.tiny import TINY_MODELS
from tests.tiny_heads import HEADS, find_head


def test_every_family_has_a_tiny_model() -> None:
    assert set(TINY_MODELS) == {family.model_type for family in list_families()}


def test_every_head_has_an_entry_and_every_entry_is_a_head() -> None:
    heads = [(task.name, kind) for task in list_tasks() for kind in task.kinds or (None,)]
    assert sorted((head.task, str(head.kind)) for head in HEADS.values()) == sorted(
        (task, str(kind)) for task, kind in heads
    )


def test_every_task_has_a_family_and_every_family_a_task() -> None:
    cells = list(list_cells())
    assert {cell.task.name for cell in cells} == {task.name for task in list_tasks()}
    assert {cell.family.model_type for cell in cells} == {family.model_type for family in list_families()}
    assert {find_head(cell) for cell in cells} == set(HEADS)
