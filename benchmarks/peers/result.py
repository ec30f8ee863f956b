"""A contest's result as JSON values: every row with its raw answers, and the comparisons they support."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.environment import describe_environment
from benchmarks.peers.contest import Contest, Outcome
from benchmarks.peers.cost_table import draw_costs
from benchmarks.peers.costs import Costs
from benchmarks.peers.roster import OURS, OWN, PEERS
from benchmarks.peers.row import FLOAT, Peer
from benchmarks.peers.score import difference, unpack_rows
from benchmarks.peers.table import draw_table
from benchmarks.peers.training import Training
from benchmarks.peers.written import Written
from calibration.settings import CalibrationSettings
from qat.artefacts import atomic_file, hash_file, write_json
from qat.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """What a result holds beside its rows: the training steps, None where they were not taken, and the snippets."""

    training: Training | None = None
    written: tuple[Written, ...] = ()


def describe_contest(contest: Contest, outcomes: Sequence[Outcome], beside: Beside | None = None) -> dict[str, Any]:
    """The result: what was compared, on which machine, every row, and ours against each matched row.

    Rows are in the order of the roster; those that failed are there with their error. A difference is missing where one
    of its two sides is.
    """
    beside = beside or Beside()
    listed = [(peer.name, row.recipe) for peer in PEERS.values() for row in peer.rows]
    places = {key: place for place, key in enumerate(listed)}
    outcomes = sorted(outcomes, key=lambda each: places.get((each.peer, each.row.recipe), len(places)))
    baseline = next((each for each in outcomes if each.row.recipe == FLOAT and each.correct), None)
    return {
        "contest": _identify(contest),
        "scored": max((len(each.correct) for each in outcomes), default=0),
        "environment": describe_environment(),
        "rows": [_describe(each, baseline) for each in outcomes],
        "compared": compare_matched(outcomes),
        "training": None
        if beside.training is None
        else {**asdict(beside.training), "costs": beside.training.list_costs()},
        "written": [asdict(each) for each in beside.written],
    }


def compare_matched(outcomes: Sequence[Outcome], method: str | None = None) -> list[dict[str, Any]]:
    """Ours minus theirs for every matched row of a peer: same placement, same weight granularity, same rows.

    A row in which nothing came out as INT8 matches nothing and is left out.

    Args:
        outcomes: ours among them.
        method: which of our methods stands for us; None for the default one, whichever of ours came out best.
    """
    method = method or CalibrationSettings().method
    ours = {
        (each.row.placement, each.row.weights): each
        for each in outcomes
        if each.peer == OURS.name and each.correct and each.row.recipe.endswith(f" {method}")
    }
    compared = []
    for theirs in outcomes:
        mine = ours.get((theirs.row.placement, theirs.row.weights))
        if theirs.peer in OWN or theirs.row.standing != "matched" or not theirs.correct or mine is None:
            continue
        if not any(theirs.facts["inside"][what] for what in ("weights", "activations", "products")):
            continue
        apart = difference(unpack_rows(mine.correct), unpack_rows(theirs.correct))
        compared.append({
            "ours": mine.row.recipe,
            "peer": theirs.peer,
            "theirs": theirs.row.recipe,
            "points": round(apart.points, 3),
            "error": round(apart.error, 3),
            "clear": apart.clear,
        })  # fmt: skip
    return compared


def write_result(path: Path, result: dict[str, Any]) -> tuple[Path, Path]:
    """The JSON file at ``path`` with everything, and beside it the same tables as ``.md``.

    Raises:
        OutputError: the folder cannot be written.
    """
    table = path.with_suffix(".md")
    write_json(path, result)
    with atomic_file(table) as staging:
        staging.write_text(draw_tables(result), encoding="utf-8")
    return path, table


def draw_tables(result: Mapping[str, Any]) -> str:
    """All tables of a result as Markdown: its rows, and what they cost where that was measured."""
    return "\n".join(f"```text\n{each}\n```\n" for each in (draw_table(result), draw_costs(result)) if each)


def read_result(path: Path, contest: Contest, peers: Sequence[Peer]) -> tuple[list[Outcome], Beside]:
    """What a result file has of this very contest, same weights, data, sizes; nothing where there is no file.

    What failed is left out, so that it runs again.

    Raises:
        DataError: the file is of another contest, or of something else.
    """
    if not path.is_file():
        return [], Beside()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        same = stored["contest"] == _identify(contest)
        values = {(each["peer"], each["recipe"]): each for each in stored["rows"] if each["correct"]}
        beside = Beside(
            training=_read_training(stored["training"]),
            written=tuple(Written(**each) for each in stored["written"] if not each["error"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no result of a contest ({error!r}): leave --resume out, or give another --out"
        ) from error
    if not same:
        raise DataError(f"{path} holds a contest on other data or sizes: leave --resume out, or give another --out")
    outcomes = [
        Outcome(
            peer=peer.name,
            row=row,
            accuracy=found["accuracy"],
            correct=found["correct"],
            facts=found["facts"],
            costs=None if found["costs"] is None else Costs(**found["costs"]),
        )
        for peer in peers
        for row in peer.rows
        if (found := values.get((peer.name, row.recipe))) is not None
    ]
    return outcomes, beside


def _read_training(stored: Mapping[str, Any] | None) -> Training | None:
    if stored is None or stored["error"]:
        return None
    return Training(samples_ms=stored["samples_ms"])


def _identify(contest: Contest) -> dict[str, Any]:
    weights = contest.checkpoint / "model.safetensors"
    return {
        "checkpoint": contest.checkpoint.name,
        "weights": hash_file(weights) if weights.is_file() else None,
        "task": contest.task,
        "texts": contest.texts,
        "limit": contest.limit,
        "batch": {"calibration": contest.calibration_batch, "evaluation": contest.evaluation_batch},
        "max_length": contest.max_length,
        "threads": contest.threads,
        "data": {"name": contest.data.name, "hash": hash_file(contest.data)},
        "evaluation": {"name": contest.evaluation.name, "hash": hash_file(contest.evaluation)},
    }


def _describe(each: Outcome, baseline: Outcome | None) -> dict[str, Any]:
    apart = None
    if baseline is not None and each.correct:
        found = difference(unpack_rows(each.correct), unpack_rows(baseline.correct))
        apart = {"points": round(found.points, 3), "error": round(found.error, 3)}
    return {
        "peer": each.peer,
        "recipe": each.row.recipe,
        "standing": each.row.standing,
        "placement": each.row.placement,
        "weights": each.row.weights,
        "note": each.row.note,
        "accuracy": each.accuracy,
        "to_float": apart,
        "facts": dict(each.facts),
        "costs": None if each.costs is None else asdict(each.costs),
        "error": each.error,
        "correct": each.correct,
    }
