"""``python -m benchmarks.peers``: the peers' environments, and the table."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchmarks.peers.contest import Contest, Outcome, run_contest
from benchmarks.peers.cost_table import draw_costs
from benchmarks.peers.environments import FOLDER, prepare_environment
from benchmarks.peers.result import Beside, describe_contest, read_result, write_result
from benchmarks.peers.roster import OURS, find_peers, keep_usual
from benchmarks.peers.row import Peer
from benchmarks.peers.table import draw_table
from benchmarks.peers.training import measure_training, read_training
from benchmarks.peers.written import run_snippets
from benchmarks.sample import CHECKPOINT, TRAIN, VALIDATION
from benchmarks.workload import parse_shapes_list
from qat.artefacts import require_writable
from qat.console import print_json, say, show_stages
from qat.options import LimitOption, MaxLengthOption

app = typer.Typer(
    name="peers", pretty_exceptions_enable=False, help="Other quantizers beside qdq, on the same batches."
)

_SHAPES = "1x32,1x128,8x128,32x128"
_EnvironmentsOption = Annotated[Path, typer.Option("--environments", help="Where the peers' environments lie.")]
_OnlyOption = Annotated[list[str] | None, typer.Option("--only", help="A peer; may be given several times.")]


@app.command("prepare")
def prepare_command(only: _OnlyOption = None, environments: _EnvironmentsOption = FOLDER) -> None:
    """Make each peer's environment from its pinned versions."""
    for peer in find_peers(only or []):
        if peer.requirements:
            say(f"{peer.title} ...")
            say(f"{prepare_environment(peer, environments)}")


@app.callback(invoke_without_command=True)
def peers_command(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="Float Hugging Face folder.")] = CHECKPOINT,
    task: Annotated[str, typer.Option("--task", help="Task, as Hugging Face names it.")] = "text-classification",
    data: Annotated[Path, typer.Option("--data", help="Rows to calibrate on.")] = TRAIN,
    evaluation: Annotated[Path, typer.Option("--eval", help="Labelled rows to score on.")] = VALIDATION,
    texts: Annotated[int, typer.Option("--texts", min=1, help="How many rows calibrate.")] = 512,
    limit: LimitOption = None,
    max_length: MaxLengthOption = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of every process.")] = 1,
    out: Annotated[Path, typer.Option("--out", help="JSON file; the table goes beside it as .md.")] = FOLDER
    / "peers.json",
    only: _OnlyOption = None,
    environments: _EnvironmentsOption = FOLDER,
    keep: Annotated[Path | None, typer.Option("--keep", help="Folder for the models of graph quantizers.")] = None,
    costs: Annotated[
        bool, typer.Option(help="Also speed, plans, training steps and lines written, of rows that stand for a kind.")
    ] = True,
    shapes: Annotated[str, typer.Option("--shapes", help="BATCHxSEQUENCE list that is timed.")] = _SHAPES,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Time a shape, at least 4 rounds.")] = 1.0,
    rounds: Annotated[int, typer.Option("--rounds", min=0, help="Training steps of each; 0 takes none.")] = 8,
    training: Annotated[
        Path | None, typer.Option(help="Training steps already taken, a result of python -m benchmarks.qat_step.")
    ] = None,
    every_method: Annotated[bool, typer.Option(help="Also rows of every other calibration method; long.")] = False,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.01, help="How long a row may take; one that takes longer is told so.")
    ] = 20.0,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the rows --out has of this contest.")] = False,
) -> None:
    """Quantize one checkpoint with every peer and with qdq, score all on the same rows, print the table.

    Example: python -m benchmarks.peers --checkpoint my-bert --data train.jsonl --eval dev.jsonl --out peers.json
    """
    if context.invoked_subcommand is not None:
        return
    peers = find_peers([OURS.name, *only] if only else [])
    if not every_method:
        peers = keep_usual(peers)
    require_writable(out)
    contest = Contest(
        checkpoint=checkpoint,
        task=task,
        data=data,
        evaluation=evaluation,
        texts=texts,
        limit=limit,
        max_length=max_length,
        threads=threads,
        environments=environments,
        keep=keep,
        shapes=parse_shapes_list(shapes) if costs else (),
        seconds=seconds,
        minutes=minutes,
    )
    known, beside = read_result(out, contest, find_peers([])) if resume else ([], Beside())
    if training is not None:
        beside = replace(beside, training=read_training(training, checkpoint))
    result = _run(_Plan(contest, peers, out, rounds if costs else 0), known, beside)
    typer.echo("\n\n".join(each for each in (draw_table(result), draw_costs(result)) if each))
    kept = ("peer", "recipe", "standing", "accuracy", "to_float", "error")
    rows = [{key: row[key] for key in kept} for row in result["rows"]]
    print_json({"out": str(out), "rows": rows, "compared": result["compared"]})


class _Plan(NamedTuple):
    """What is run, by whom, where it is written, and how many training steps each takes."""

    contest: Contest
    peers: Sequence[Peer]
    out: Path
    rounds: int


def _run(plan: _Plan, known: Sequence[Outcome], beside: Beside) -> dict[str, Any]:
    """The result, written after each of its parts: what a long run has found survives its interruption."""
    outcomes = {(each.peer, each.row.recipe): each for each in known}

    def keep_result() -> dict[str, Any]:
        result = describe_contest(plan.contest, list(outcomes.values()), beside)
        write_result(plan.out, result)
        return result

    with show_stages() as advance:
        for outcome in run_contest(
            plan.contest, plan.peers, known=known, progress=lambda row, done, rows: advance(row, 0, rows)
        ):
            outcomes[outcome.peer, outcome.row.recipe] = outcome
            keep_result()
        if plan.contest.shapes:
            for written in run_snippets(
                plan.contest, plan.peers, beside.written, progress=lambda name: advance(name, 0, 1)
            ):
                beside = replace(beside, written=(*beside.written, written))
                keep_result()
        if plan.rounds and beside.training is None:
            advance("training steps", 0, 1)
            beside = replace(beside, training=measure_training(plan.contest, rounds=plan.rounds))
        return keep_result()
