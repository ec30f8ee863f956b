"""Choosing the best step; going on after an interruption, which equals never having stopped, for the same run only."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from qat.errors import CheckpointError, RangeError
from qat.finetune import Finetuning, TrainingPlan, split_rows, train_rows
from qat.finetune_settings import FinetuneSettings
from qat.training_callbacks import Progress
from qat.training_run import TrainingRun, forget_run, newest_checkpoint
from tests.calibrated import encode_tiny, make_calibrated
from tests.tiny import tiny_albert, tiny_bert

ROWS = encode_tiny(64, seed=1)
PLAN = FinetuneSettings(max_steps=6, batch_size=8, learning_rate=1e-3, held_out=6, evaluations=3, dropout=0.1)


class Killed(BaseException):
    """What an interruption from outside looks like in here."""


def ignore(step: int, steps: int, loss: float | None) -> None:
    """No progress is shown."""


def train(
    model: PreTrainedModel,
    settings: FinetuneSettings = PLAN,
    *,
    run: TrainingRun | None = None,
    progress: Progress = ignore,
) -> Finetuning:
    return train_rows(model, ROWS, TrainingPlan(settings=settings, pad_token_id=0, run=run), progress=progress)


def values_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def interrupt(model: PreTrainedModel, folder: Path, step: int, settings: FinetuneSettings = PLAN) -> None:
    def stop(done: int, steps: int, loss: float | None) -> None:
        if done == step:
            raise Killed

    with pytest.raises(Killed):
        train(model, settings, run=TrainingRun(folder), progress=stop)


def test_rows_that_choose_are_not_trained_on() -> None:
    training, held = split_rows(ROWS, PLAN)
    assert (len(training), len(held)) == (58, 6)
    ids = [json.dumps(row) for part in (training, held) for row in (dict(each) for each in part)]
    assert sorted(ids) == sorted(json.dumps(dict(row)) for row in ROWS)
    again, _ = split_rows(ROWS, PLAN)
    other, _ = split_rows(ROWS, PLAN.model_copy(update={"seed": 1}))
    assert list(again) == list(training)
    assert list(other) != list(training)
    assert len(split_rows(ROWS, PLAN.model_copy(update={"held_out": 60}))[1]) == 6, "never more than a tenth"


def train_to_the_best_step(rate: float) -> int:
    """The step that a training run chose, after seeing that the model has its weights."""
    found: dict[int, dict[str, Tensor]] = {}
    model = make_calibrated(tiny_bert())

    def keep(step: int, steps: int, loss: float | None) -> None:
        found[step] = values_of(model)

    settings = {"learning_rate": rate, "patience": 9, "max_steps": 18, "evaluations": 9}
    done = train(model, PLAN.model_copy(update=settings), progress=keep)
    assert sorted(done.held_out) == list(range(0, 20, 2))
    assert done.best_step == min(done.held_out, key=lambda step: done.held_out[step])
    trained = dict(model.named_parameters())
    assert all(torch.equal(value, found[done.best_step][name]) for name, value in trained.items())
    return done.best_step


def test_the_model_ends_with_the_weights_of_the_best_step() -> None:
    chosen = [train_to_the_best_step(rate) for rate in (0.005, 0.015, 0.05)]
    assert not {0, 18}.issuperset(chosen), f"the rates are chosen so that some best lies between: {chosen}"


def test_training_that_makes_nothing_better_leaves_the_model_alone() -> None:
    model = make_calibrated(tiny_bert())
    before = values_of(model)
    done = train(model, PLAN.model_copy(update={"learning_rate": 3.0, "max_grad_norm": 1e-3, "warmup": 0.0}))
    assert done.best_step == 0
    assert all(torch.equal(value, before[name]) for name, value in values_of(model).items())


def test_patience_ends_a_run_that_gets_worse() -> None:
    worse = PLAN.model_copy(update={"learning_rate": 3.0, "patience": 1, "warmup": 0.0, "max_steps": 12})
    done = train(make_calibrated(tiny_bert()), worse)
    assert done.steps < 12


@pytest.mark.parametrize("ranges", ["frozen", "reestimated", "learned"])
def test_going_on_equals_never_having_stopped(ranges: str, tmp_path: Path) -> None:
    settings = PLAN.model_copy(update={"ranges": ranges})
    whole, stopped = make_calibrated(tiny_albert()), make_calibrated(tiny_albert())
    expected = train(whole, settings, run=TrainingRun(tmp_path / "whole"))
    interrupt(stopped, tmp_path / "stopped", 5, settings)
    resumed = make_calibrated(tiny_albert())
    seen: list[int] = []
    done = train(
        resumed,
        settings,
        run=TrainingRun(tmp_path / "stopped", resume=True),
        progress=lambda step, steps, loss: seen.append(step),
    )
    assert seen == [5, 6]
    assert done == expected
    one, two = values_of(whole), values_of(resumed)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_a_run_that_ended_and_was_not_written_is_resumed_to_its_end(tmp_path: Path) -> None:
    whole, resumed = make_calibrated(tiny_bert()), make_calibrated(tiny_bert())
    expected = train(whole, run=TrainingRun(tmp_path))
    assert train(resumed, run=TrainingRun(tmp_path, resume=True)) == expected
    assert all(torch.equal(value, values_of(whole)[name]) for name, value in values_of(resumed).items())


def test_a_checkpoint_that_was_being_written_is_not_taken(tmp_path: Path) -> None:
    for step, text in ((2, "{}"), (10, "{}"), (12, '{"global')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(text)
        torch.save({}, folder / "rng_state.pth")
    (tmp_path / "checkpoint-14").mkdir()
    for step, content in ((15, b"PK half of it"), (16, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        if content is not None:
            (folder / "rng_state.pth").write_bytes(content)
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2"]
    assert newest_checkpoint(tmp_path / "nothing") is None


def refuse(model: PreTrainedModel, run: TrainingRun, settings: FinetuneSettings = PLAN) -> str:
    with pytest.raises(CheckpointError) as caught:
        train(model, settings, run=run)
    return str(caught.value)


def test_an_interrupted_run_is_neither_overwritten_nor_taken_for_another(tmp_path: Path) -> None:
    model = make_calibrated(tiny_bert())
    interrupt(model, tmp_path, 3)
    again = make_calibrated(tiny_bert())
    assert refuse(again, TrainingRun(tmp_path)) == (
        f"{tmp_path} holds an interrupted run: go on with --resume, or delete the folder"
    )
    other = PLAN.model_copy(update={"seed": 5})
    rest = "give what it was started with, or delete it"
    assert refuse(again, TrainingRun(tmp_path, resume=True), other) == (
        f"{tmp_path} holds a run with other settings: {rest}"
    )
    assert refuse(model, TrainingRun(tmp_path, resume=True), other) == (
        f"{tmp_path} holds a run with other model and settings: {rest}"
    )
    (tmp_path / "run.json").write_text("{")
    assert refuse(again, TrainingRun(tmp_path, resume=True)).startswith(
        f"{tmp_path / 'run.json'} is no record of a run ("
    )


def test_only_the_run_that_ended_is_forgotten(tmp_path: Path) -> None:
    run = TrainingRun(tmp_path / "run")
    identity = {"model": "abc", "settings": {"steps": 4}}
    run.folder.mkdir()
    (run.folder / "run.json").write_text(json.dumps(identity))
    forget_run(run, identity | {"model": "abd", "vocabulary": "v"})
    assert run.folder.is_dir()
    forget_run(run, identity | {"vocabulary": "v"})
    assert not run.folder.exists()
    forget_run(run, identity)


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    model = make_calibrated(tiny_bert())

    def spoil(step: int, steps: int, loss: float | None) -> None:
        if step == 3:
            with torch.no_grad():
                model.get_parameter("classifier.weight").fill_(float("nan"))

    with pytest.raises(RangeError) as caught:
        train(model, run=TrainingRun(tmp_path), progress=spoil)
    assert str(caught.value) == (
        "the loss is nan at step 4: lower --set finetune.learning_rate; "
        f"the last good checkpoint is {tmp_path / 'checkpoint-2'}"
    )


def test_a_held_out_loss_that_is_no_number_is_not_kept(tmp_path: Path) -> None:
    model = make_calibrated(tiny_bert())

    def spoil(step: int, steps: int, loss: float | None) -> None:
        if step == 4:
            with torch.no_grad():
                model.get_parameter("classifier.weight").fill_(float("nan"))

    with pytest.raises(RangeError) as caught:
        train(model, run=TrainingRun(tmp_path), progress=spoil)
    assert str(caught.value) == (
        "the loss of the rows held out is nan at step 4: lower --set finetune.learning_rate; "
        f"the last good checkpoint is {tmp_path / 'checkpoint-2'}"
    )
