"""``qdq families``: the table of heads and families is the registry's own."""

from qat.cells import list_cells
from tests.test_command_line.calling import call
from tests.tiny import TINY_MODELS


def test_it_lists_every_head_of_every_family() -> None:
    done = call("families", "--json")
    assert (done.code, done.err) == (0, "")
    cells = list(list_cells())
    found = [(head, family) for head, classes in done.value["heads"].items() for family in classes]
    assert sorted(found) == sorted((cell.head, cell.family.model_type) for cell in cells)
    assert done.value["heads"]["multiple-choice"]["albert"] == "AlbertForMultipleChoice"
    assert done.out.count("yes") == len(cells)


def test_its_order_is_that_of_the_registry() -> None:
    done = call("families", "--json")
    assert list(done.value["heads"]) == list(dict.fromkeys(cell.head for cell in list_cells()))
    assert done.value["families"] == sorted(TINY_MODELS)
