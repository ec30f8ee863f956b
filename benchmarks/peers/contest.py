"""Every row of every peer, each in a process of its own, on the same batches; a row that fails keeps its error."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoConfig, AutoTokenizer

from benchmarks.peers.costs import Costs, make_timed, measure_costs
from benchmarks.peers.environments import FOLDER, find_python
from benchmarks.peers.job import ANSWER_FILE, Answer, Job
from benchmarks.peers.process import run_process
from benchmarks.peers.row import Peer, Row
from benchmarks.peers.score import judge_rows, pack_rows
from qat.batches import Batch, find_pad, iterate_batches
from qat.errors import BuildError, CheckpointError, DataError
from qat.tasks import find_task
from qat.tasks.base import Encoded
from qat.tasks.heads import SingleLabel


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """What is compared on what.

    Attributes:
        checkpoint: a float checkpoint folder of any family transformers knows.
        task: text-classification: rows are judged one by one.
        data: rows to calibrate on.
        evaluation: labelled rows to score on.
        texts: how many rows calibrate.
        limit: how many rows score, None for all.
        max_length: tokens a row keeps, None for the most the checkpoint takes.
        calibration_batch: rows a batch while calibrating, in the order of the file.
        evaluation_batch: rows a batch while scoring, longest first.
        threads: threads of every process.
        minutes: how long a row may take.
        environments: where the peers' environments lie.
        keep: where the files of every row stay, the quantized model among them; None keeps none.
        shapes: (batch, sequence) pairs at which the rows that stand for their kind are timed; none measures no costs.
        seconds: how long a shape is timed.
    """

    checkpoint: Path
    task: str
    data: Path
    evaluation: Path
    texts: int = 512
    limit: int | None = None
    max_length: int | None = None
    calibration_batch: int = 32
    evaluation_batch: int = 64
    threads: int = 1
    minutes: float = 20.0
    environments: Path = FOLDER
    keep: Path | None = None
    shapes: tuple[tuple[int, int], ...] = ()
    seconds: float = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A row of the table: what a peer's recipe came to, or why there is nothing.

    Attributes:
        peer: the peer's name.
        row: the recipe and how it is to be read.
        accuracy: the share of rows that are right.
        correct: one character a row, 1 where it is right.
        facts: times, counts, versions: an answer's fields but for its logits.
        error: why there are no figures, the last line the process wrote; empty where there are.
        costs: of a row that stands for its kind; None where they were not asked for.
    """

    peer: str
    row: Row
    accuracy: float | None = None
    correct: str = field(default="", repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    costs: Costs | None = None


def run_contest(
    contest: Contest,
    peers: Sequence[Peer],
    *,
    known: Sequence[Outcome] = (),
    progress: Callable[[str, int, int], None] = lambda row, done, rows: None,
) -> Iterator[Outcome]:
    """The outcome of every row as soon as it is there, in the order of the roster.

    Args:
        contest: checkpoint, data, sizes.
        peers: who takes part.
        known: outcomes of an earlier run of this contest; they are given back and do not run again.
        progress: called before each row with what it is, how many are done, and how many there are.

    Raises:
        CheckpointError: no checkpoint.
        DataError: rows the task cannot use, or a task that is not judged row by row.
    """
    calibration, evaluation, pad = _read_batches(contest)
    labels = np.concatenate([batch.targets["labels"] for batch in evaluation])
    order = np.argsort(np.concatenate([batch.index for batch in evaluation]), kind="stable")
    rows = [(peer, row) for peer in peers for row in peer.rows]
    before = {(outcome.peer, outcome.row): outcome for outcome in known}
    with tempfile.TemporaryDirectory(prefix="peers-") as scratch:
        folder = Path(scratch)
        graph, refusal = None, ""
        if any(peer.needs_graph for peer in peers):
            progress("float graph", 0, len(rows))
            graph, refusal = _trace(contest, tuple(evaluation[0].inputs), folder)
        Job(
            checkpoint=contest.checkpoint.absolute(),
            task=contest.task,
            graph=graph,
            threads=contest.threads,
            calibration=[batch.inputs for batch in calibration],
            evaluation=[batch.inputs for batch in evaluation],
            timed=make_timed(evaluation, contest.shapes, pad_id=pad),
            seconds=contest.seconds,
        ).write(folder)
        for done, (peer, row) in enumerate(rows):
            earlier = before.get((peer.name, row))
            if earlier is not None and not _lacks_costs(contest, earlier):
                yield earlier
                continue
            progress(f"{peer.title}, {row.recipe}", done, len(rows))
            lacking = row.cannot or (f"no float graph: {refusal}" if peer.needs_graph and graph is None else "")
            if lacking:
                yield Outcome(peer=peer.name, row=row, error=lacking)
            else:
                yield _run_row(contest, peer, row, folder, lambda logits: judge_rows(logits, labels)[order])


def _run_row(
    contest: Contest, peer: Peer, row: Row, folder: Path, judge: Callable[[NDArray[np.float32]], NDArray[np.bool_]]
) -> Outcome:
    module = peer.open.__module__
    with tempfile.TemporaryDirectory(dir=folder) as own:
        try:
            python = find_python(peer, contest.environments)
        except BuildError as missing:
            return Outcome(peer=peer.name, row=row, error=str(missing))
        error = run_module(python, [module, str(folder), row.recipe, own], contest, cwd=Path(own))
        costly = bool(contest.shapes and row.costs)
        answered = (Path(own) / ANSWER_FILE).is_file()
        if error and not (costly and "latency" in row.costs and answered):
            return Outcome(peer=peer.name, row=row, error=error)
        answer = Answer.read(Path(own))
        costs = None
        if costly:
            graph = None if answer.inside is None else answer.inside.graph
            costs = measure_costs(row, Path(own), graph=graph, failure=error, threads=contest.threads)
        if contest.keep is not None:
            shutil.copytree(own, contest.keep / f"{peer.name}-{row.recipe}".replace(" ", "-"), dirs_exist_ok=True)
    correct = judge(answer.logits)
    return Outcome(
        peer=peer.name,
        row=row,
        accuracy=float(correct.mean()),
        correct=pack_rows(correct),
        facts=answer.list_facts(),
        costs=costs,
    )


def _lacks_costs(contest: Contest, outcome: Outcome) -> bool:
    return bool(contest.shapes and outcome.row.costs) and outcome.costs is None


def run_module(python: Path, arguments: Sequence[str], contest: Contest, *, cwd: Path) -> str:
    """Runs ``python -m`` as ``run_process`` does.

    Args:
        python: the interpreter.
        arguments: the module and its arguments.
        contest: for its threads and its limit of time.
        cwd: the folder it runs in.
    """
    command = [str(python), "-m", *arguments]
    return run_process(command, cwd=cwd, threads=contest.threads, minutes=contest.minutes)


def _trace(contest: Contest, inputs: Sequence[str], folder: Path) -> tuple[Path | None, str]:
    path = folder / "float.onnx"
    arguments = ["benchmarks.peers.float_graph", str(contest.checkpoint.absolute()), contest.task, str(path), *inputs]
    error = run_module(Path(sys.executable), arguments, contest, cwd=folder)
    return (None, error) if error else (path, "")


def _read_batches(contest: Contest) -> tuple[list[Batch], list[Batch], int]:
    task = find_task(contest.task)
    if contest.task != "text-classification":
        raise DataError(
            f"--task {contest.task}: peers are compared row by row, by accuracy; give --task text-classification"
        )
    if not (contest.checkpoint / "config.json").is_file():
        raise CheckpointError(f"no checkpoint in {contest.checkpoint}: give a Hugging Face folder with a config.json")
    tokenizer = AutoTokenizer.from_pretrained(contest.checkpoint, trust_remote_code=False)
    config = AutoConfig.from_pretrained(contest.checkpoint, trust_remote_code=False)

    def encode(source: Path, limit: int | None, *, labelled: bool) -> Encoded:
        rows = task.load(source, columns={}, limit=limit, require_labels=labelled)
        return task.encode(
            rows, tokenizer=tokenizer, config=config, max_length=contest.max_length, require_labels=labelled
        )

    pad = find_pad(tokenizer)
    texts = encode(contest.data, contest.texts, labelled=False)
    scored = encode(contest.evaluation, contest.limit, labelled=True)
    if scored.problem_type != SingleLabel.problem_type:
        raise DataError(
            f"{contest.checkpoint} has a head for {scored.problem_type}: peers are compared by accuracy, "
            "give a checkpoint with one label a row"
        )
    if len(scored) < 2:
        raise DataError(f"{contest.evaluation} gives {len(scored)} row: a standard error needs two or more")
    return (
        list(iterate_batches(texts, batch_size=contest.calibration_batch, pad_token_id=pad)),
        list(iterate_batches(scored, batch_size=contest.evaluation_batch, pad_token_id=pad, order="length")),
        pad,
    )
