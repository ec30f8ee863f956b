"""Settings of the command line: their types, and the line a wrong one gets."""

import re

import pytest

from qat.errors import RecipeError
from qat.finetune_settings import FinetuneSettings
from qat.recipe import validate_settings
from qat.settings import NAMESPACES, parse_overrides, require_stages

STAGES = "known: build, calibration, export, finetune, task, weights"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("120", 120),
        ("-3", -3),
        ("2e-5", 2e-5),
        ("0.5", 0.5),
        ("true", True),
        ("false", False),
        ("percentile", "percentile"),
        ('"120"', "120"),
        ("", ""),
        ("a=b", "a=b"),
        ("[1, 2]", [1, 2]),
        ("sm_89,sm_120", "sm_89,sm_120"),
    ],
)
def test_values_have_the_type_they_look_like(text: str, value: object) -> None:
    found = parse_overrides([f"finetune.it={text}"])["finetune"]["it"]
    assert (found, type(found)) == (value, type(value))


def test_settings_are_gathered_by_stage_and_the_last_one_wins() -> None:
    assert parse_overrides(
        ["finetune.max_steps=1", "weights=per_channel", "finetune.seed=2", "build.level=3", "finetune.max_steps=4"]
    ) == {"finetune": {"max_steps": 4, "seed": 2}, "weights": {"weights": "per_channel"}, "build": {"level": 3}}
    assert parse_overrides(["weights.bits=7"]) == {"weights": {"weight_bits": 7}}
    assert parse_overrides([]) == {}


@pytest.mark.parametrize("stage", [name for name in NAMESPACES if name != "weights"])
def test_every_stage_takes_settings(stage: str) -> None:
    assert parse_overrides([f"{stage}.name=1"]) == {stage: {"name": 1}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("finetune.max_steps", "--set 'finetune.max_steps' is no assignment: write --set stage.name=value"),
        ("=3", "--set '=3' is no assignment: write --set stage.name=value"),
        ("", "--set '' is no assignment: write --set stage.name=value"),
        (
            "finetun.max_steps=3",
            f"--set 'finetun.max_steps=3': unknown stage 'finetun', did you mean 'finetune'? {STAGES}",
        ),
        ("max_steps=3", f"--set 'max_steps=3': unknown stage 'max_steps', {STAGES}"),
        ("finetune=3", "--set 'finetune=3' names no setting: write --set finetune.name=value"),
        ("finetune.=3", "--set 'finetune.=3' names no setting: write --set finetune.name=value"),
        ("weights.a=3", "--set 'weights.a=3' names no setting: write --set weights=per_tensor or weights.bits=7"),
    ],
)
def test_what_is_no_setting(assignment: str, message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        parse_overrides(["finetune.seed=1", assignment])


def test_stages_of_the_command_pass() -> None:
    require_stages(parse_overrides(["finetune.seed=1"]), ("weights", "finetune"))
    require_stages({}, ())


def test_a_stage_the_command_does_not_run() -> None:
    message = "--set calibration...: this command has no stage 'calibration', known: finetune"
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        require_stages(parse_overrides(["finetune.seed=1", "calibration.samples=9"]), ("finetune",))


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("finetune.max_steps=ten", "max_steps: Input should be a valid integer ('ten' given)"),
        ("finetune.max_steps=0", "max_steps: Input should be greater than or equal to 1 (0 given)"),
        ("finetune.max_steps=1.5", "max_steps: Input should be a valid integer (1.5 given)"),
        ("finetune.learning_rate=inf", "learning_rate: Input should be a finite number (inf given)"),
        ("finetune.learning_rate=nan", "learning_rate: Input should be a finite number (nan given)"),
        ("finetune.learning_rate=0", "learning_rate: Input should be greater than 0 (0 given)"),
        ("finetune.gradient_checkpointing=1", "gradient_checkpointing: Input should be a valid boolean (1 given)"),
        ("finetune.distillation=1.5", "distillation: Input should be less than or equal to 1 (1.5 given)"),
    ],
)
def test_values_a_stage_does_not_take(assignment: str, problem: str) -> None:
    values = parse_overrides([assignment])["finetune"]
    with pytest.raises(RecipeError, match=f"^fine-tuning settings: {re.escape(problem)}$"):
        validate_settings(FinetuneSettings, values, where="fine-tuning settings")


def test_every_wrong_setting_is_named_at_once() -> None:
    values = parse_overrides(["finetune.max_step=3", "finetune.seed=-1"])["finetune"]
    with pytest.raises(RecipeError) as caught:
        validate_settings(FinetuneSettings, values, where="fine-tuning settings")
    message = str(caught.value)
    assert message.startswith("fine-tuning settings: seed: Input should be greater than or equal to 0 (-1 given); ")
    assert "; unknown key 'max_step', did you mean 'max_steps'? known: accumulate, " in message
    assert "\n" not in message


def test_whole_numbers_are_taken_where_fractions_are() -> None:
    values = parse_overrides(["finetune.learning_rate=1", "finetune.gradient_checkpointing=true"])["finetune"]
    settings = validate_settings(FinetuneSettings, values, where="fine-tuning settings")
    assert (settings.learning_rate, settings.gradient_checkpointing) == (1.0, True)
