"""No number of any configuration is infinite, too large for 64 bits, or a million threads."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from components.core.errors import InputError
from conf.compose import compose_project, compose_section, keys
from conf.limits import LARGEST, MOST_SECONDS
from conf.schema import ProjectConfig, ServeCommandConfig, UpConfig


def value_at(config: BaseModel, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


NUMBERS = [key for key in keys(ProjectConfig) if type(value_at(ProjectConfig(), key)) in (int, float)]


@pytest.mark.parametrize("given", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_is_finite(key: str, given: str) -> None:
    *sections, name = key.split(".")
    values: dict[str, Any] = {name: float(given)}
    for section in reversed(sections):
        values = {section: values}
    with pytest.raises(ValidationError, match=name):
        ProjectConfig.model_validate(values)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.learning_rate=inf", "trainer.learning_rate = inf is not a finite number"),
        ("trainer.threads=1000000", "trainer.threads = 1000000 is too large; 1,024 at most"),
        ("trainer.devices=1000000", "batch_size"),
        ("label.processes=5000", "1,024 at most"),
        ("facts.factscore.judge.parallel=5000", "1,024 at most"),
        ("cascade.helper.retries=101", "100 at most"),
        ("cascade.helper.timeout_seconds=1e9", "1,000,000 at most"),
        ("trainer.max_steps=" + "9" * 4000, "has 4000 digits"),
        ("study.seeds=[1,9223372036854775808]", "below 2^63"),
        ("facts.budgets=[0.1,inf]", "facts.budgets"),
    ],
)
def test_numbers_that_no_machine_can_use_are_refused_everywhere(override: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        compose_project("world", [override])
    assert words in str(caught.value)
    assert len(str(caught.value)) < 600


def test_commands_that_are_no_flows_have_the_same_bounds() -> None:
    with pytest.raises(InputError, match="threads = 2000 is too large"):
        compose_section(ServeCommandConfig, ["threads=2000"])
    with pytest.raises(InputError, match="startup_timeout_seconds = 1000001 is too large"):
        compose_section(UpConfig, [f"startup_timeout_seconds={MOST_SECONDS + 1}"])


def test_the_bounds_leave_room_for_large_machines() -> None:
    assert compose_project("world", ["trainer.threads=768", "trainer.max_steps=1000000000000"]).trainer.threads == 768
    assert {key.rpartition(".")[2] for key in NUMBERS} >= LARGEST.keys()
