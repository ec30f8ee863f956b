"""``qdq families``: the heads that can be quantized, of each family."""

from qat.cells import list_cells
from qat.console import print_json, print_table
from qat.families import list_families
from qat.options import JsonOption


def families_command(as_json: JsonOption = False) -> None:
    """List the model families and the heads of each that can be quantized.

    Example: qdq families
    """
    names = [family.model_type for family in list_families()]
    heads: dict[str, dict[str, str]] = {}
    for cell in list_cells():
        heads.setdefault(cell.head, {})[cell.family.model_type] = cell.model_class.__name__
    rows = [(head, *("yes" if name in found else None for name in names)) for head, found in heads.items()]
    print_table(f"{len(heads)} heads, {len(names)} families", ("head", *names), rows)
    if as_json:
        print_json({"families": names, "heads": heads})
