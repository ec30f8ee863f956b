"""From a recipe's rules to the slots that get a quantizer, with the reason for everything that does not."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from qat.errors import RecipeError
from qat.families.base import Activation, Point, Reader
from qat.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Whether a reader of a tensor is quantized, and why."""

    reader: Reader
    quantized: bool
    reason: str


class RuleBook:
    """A recipe's rules over the module paths of one model; remembers which rules matched something."""

    def __init__(self, recipe: Recipe, prefix: str) -> None:
        self.recipe = recipe
        self._prefix = f"{prefix}."
        self._matched: set[int] = set()

    def decide(self, reader: Reader) -> Decision:
        """What the last matching rule says of ``reader``; float where none matches."""
        verdict = Decision(reader=reader, quantized=False, reason=f"no rule of recipe '{self.recipe.name}' asks for it")
        paths = (reader.module, reader.module.removeprefix(self._prefix))
        for number, rule in enumerate(self.recipe.rules):
            if reader.role in rule.roles and any(fnmatchcase(path, rule.layers) for path in paths):
                self._matched.add(number)
                reason = f"rule {number + 1} of recipe '{self.recipe.name}'"
                verdict = Decision(reader=reader, quantized=rule.quantize, reason=reason)
        return verdict

    def require_all_matched(self, readers: Iterable[Reader]) -> None:
        """Passes when every rule matched something.

        Raises:
            RecipeError: the rules that did not, with paths that exist.
        """
        for number, rule in enumerate(self.recipe.rules):
            if number not in self._matched:
                paths = sorted({reader.module.removeprefix(self._prefix) for reader in readers})
                raise RecipeError(
                    f"rule {number + 1} of recipe '{self.recipe.name}' (layers '{rule.layers}', roles "
                    f"{', '.join(rule.roles)}) matches nothing: module paths here look like {', '.join(paths[:4])}, ..."
                )


def choose_points(activation: Activation, quantized: frozenset[Reader], recipe: Recipe) -> list[Point]:
    """The slots that serve exactly the readers in ``quantized``, as few as the recipe's sharing allows.

    Raises:
        RecipeError: the family has no slot that serves these readers without touching another one.
    """
    if recipe.sharing == "reader":
        single = [point for point in activation.points if len(point.readers) == 1]
        if quantized <= {reader for point in single for reader in point.readers}:
            return [point for point in single if set(point.readers) <= quantized]
    chosen: list[Point] = []
    left = set(quantized)
    for point in sorted(activation.points, key=lambda point: -len(point.readers)):
        if left and set(point.readers) <= left:
            chosen.append(point)
            left -= set(point.readers)
    if left:
        stuck = ", ".join(f"{reader.module} ({reader.role})" for reader in sorted(left, key=lambda each: each.module))
        raise RecipeError(
            f"recipe '{recipe.name}' quantizes {stuck} but not the other readers of the same tensor, and this family "
            "has no place for that: quantize the inputs that read it as well, or leave this one float"
        )
    return chosen
