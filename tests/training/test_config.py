import subprocess
import sys

import pytest
from pydantic import ValidationError

from components.training.config import PretrainConfig, TrainerConfig


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batch_size": 16, "micro_batch_size": 5}, "batch_size 16 is not a multiple of micro_batch_size 5"),
        ({"batch_size": 16, "micro_batch_size": 16, "devices": 2}, "times devices 2"),
        ({"warmup_fraction": 1.0}, "less than 1"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"learning_rate": "fast"}, "valid number"),
        ({"max_steps": -1}, "greater than 0"),
        ({"precision": "16-mixed"}, "'auto', 'bf16-mixed' or '32-true'"),
        ({"beta2": 1.0}, "less than 1"),
        ({"steps": 5}, "Extra inputs"),
    ],
)
def test_impossible_settings_are_refused_in_words(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TrainerConfig.model_validate(values)


def test_accumulation_follows_from_the_batch_sizes() -> None:
    assert TrainerConfig(batch_size=64, micro_batch_size=8, devices=2).accumulation == 4


def test_the_config_is_light_enough_for_the_flow_process() -> None:
    code = "import sys, components.training.config; print({'torch', 'numpy', 'lightning'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_every_field_says_what_it_is() -> None:
    for config in (PretrainConfig, TrainerConfig):
        assert all(field.description for field in config.model_fields.values())
