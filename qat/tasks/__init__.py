"""The tasks a checkpoint can have, by their Hugging Face names; one file a task."""

from qat.errors import DataError, suggest
from qat.tasks.base import Task
from qat.tasks.feature_extraction import FeatureExtraction
from qat.tasks.fill_mask import FillMask
from qat.tasks.multiple_choice import MultipleChoice
from qat.tasks.next_sentence_prediction import NextSentencePrediction
from qat.tasks.pretraining import Pretraining
from qat.tasks.question_answering import QuestionAnswering
from qat.tasks.text_classification import TextClassification
from qat.tasks.text_generation import TextGeneration
from qat.tasks.token_classification import TokenClassification

__all__ = ["Task", "find_task", "list_tasks", "register_task"]

_TASKS: dict[str, Task] = {}


def register_task(task: Task) -> None:
    """Makes ``task`` known under its name.

    Raises:
        ValueError: another task has that name.
    """
    if task.name in _TASKS:
        raise ValueError(f"task '{task.name}' is registered already")
    _TASKS[task.name] = task


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        DataError: no such task.

    >>> find_task("text-classification").columns.names
    ('text', 'text_pair', 'label')
    """
    if name not in _TASKS:
        raise DataError(f"task '{name}' is not known: {suggest(name, _TASKS)}")
    return _TASKS[name]


def list_tasks() -> list[Task]:
    """Every task, by name."""
    return [_TASKS[name] for name in sorted(_TASKS)]


register_task(FeatureExtraction())
register_task(FillMask())
register_task(MultipleChoice())
register_task(NextSentencePrediction())
register_task(Pretraining())
register_task(QuestionAnswering())
register_task(TextClassification())
register_task(TextGeneration())
register_task(TokenClassification())
