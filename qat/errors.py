"""The errors a user can cause, and how their messages are worded.

QDQError                what was given, what was expected, what to do; the command line prints it and exits 2
├── CheckpointError     a folder that is no checkpoint, an unknown family, a broken file
├── RecipeError         a wrong key, a rule that matches nothing, a setting out of range
├── DataError           a missing file or column, an unknown label, an empty set, a text too long
├── RangeError          a quantizer without a range, non-finite activations
├── ExportError         a target that cannot take this checkpoint, a graph that breaks its contract
├── BuildError          an engine builder that is missing or refuses the graph
├── DeployError         a model repository that a server would not load
├── OutputError         an output path that cannot be written
└── ProcessError        a job of several processes that has lost one
"""

from collections.abc import Iterable
from difflib import get_close_matches


class QDQError(Exception):
    """A mistake in what the user gave; its text is one line that says how to mend it."""


class CheckpointError(QDQError):
    """A checkpoint that cannot be read."""


class RecipeError(QDQError):
    """A recipe or a setting that does not make sense."""


class DataError(QDQError):
    """Rows that a task cannot use."""


class RangeError(QDQError):
    """A quantizer that has no usable range."""


class ExportError(QDQError):
    """A model that a target cannot take."""


class BuildError(QDQError):
    """An engine that cannot be built."""


class DeployError(QDQError):
    """A model repository that a server would not load."""


class OutputError(QDQError):
    """A place that cannot be written."""


class ProcessError(QDQError):
    """A job that has lost one of its processes."""


def suggest(given: str, known: Iterable[str]) -> str:
    """The tail of an error message: the nearest known name, then all of them.

    >>> suggest("wieghts", ["weights", "rules"])
    "did you mean 'weights'? known: rules, weights"
    >>> suggest("zzz", ["weights", "rules"])
    'known: rules, weights'
    """
    names = sorted(known)
    close = get_close_matches(given, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(names)}"
