from itertools import pairwise

import pytest

from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.config import TrainerConfig
from components.training.optimizer import adamw, learning_rate_factor


def test_only_matrices_decay() -> None:
    model = Transformer(ModelConfig(), 320)
    decayed, free = adamw(model, TrainerConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert all(weight.ndim == 2 for weight in decayed["params"])
    assert all(weight.ndim == 1 for weight in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_the_rate_warms_up_in_a_line_then_falls_in_a_cosine_to_its_floor() -> None:
    config = TrainerConfig(max_steps=100, warmup_fraction=0.1, minimum_learning_rate_fraction=0.1)
    rates = [learning_rate_factor(step, config) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1)
    assert (rates[54] + rates[55]) / 2 == pytest.approx(0.55, abs=0.01)


@pytest.mark.parametrize(("max_steps", "warmup_fraction"), [(1, 0.0), (1, 0.9), (2, 0.5), (2, 0.0), (3, 0.7)])
def test_very_short_runs_have_a_rate_for_every_step(max_steps: int, warmup_fraction: float) -> None:
    config = TrainerConfig(max_steps=max_steps, warmup_fraction=warmup_fraction)
    assert all(0 < learning_rate_factor(step, config) <= 1 for step in range(max_steps + 1))
