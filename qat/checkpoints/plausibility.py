"""Whether what a checkpoint says of itself can be true, asked before anything is made of it."""

import json
from collections.abc import Mapping
from pathlib import Path

from qat.errors import CheckpointError

DAMAGE = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, EOFError)
"""What transformers raises on files that say what cannot be: it reads them as its own."""

_MOST = {"num_hidden_layers": 1_000, "num_hidden_groups": 1_000, "inner_group_num": 1_000, "num_labels": 1_000_000}
"""Counts of what is made one by one: more of them would fill the memory, or a day."""

_CODE = ("attn_implementation", "_attn_implementation")


def require_plausible(folder: Path, values: Mapping[str, object]) -> None:
    """Passes for a configuration that asks for no code, and for no more than a model can have.

    Raises:
        CheckpointError: it names attention code of a hub repository, which transformers would run, or a giant count.
    """
    for name in _CODE:
        if "/" in str(values.get(name, "")):
            raise CheckpointError(
                f"the configuration of {folder} asks for code from the hub ({name} is '{values[name]}'), which is not "
                f"run: take {name} out of it"
            )
    for name, most in _MOST.items():
        count = values.get(name)
        if isinstance(count, int) and count > most:
            said = str(count)[:20]
            raise CheckpointError(f"the configuration of {folder} says {name} {said}: expected {most} or fewer")


def require_shards_beside(folder: Path) -> None:
    """Passes when every shard that an index names lies in the folder of the index.

    Raises:
        CheckpointError: one leads elsewhere, or the index is damaged.
    """
    for index in sorted(folder.glob("*.index.json")):
        try:
            named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            away = [name for name in named if Path(name).name != name]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{index} is no index of shards ({error}): it needs a weight_map") from error
        if away:
            raise CheckpointError(
                f"{index} names the shard '{away[0]}', which does not lie beside it: copy the file there, and its name "
                "into the index"
            )
