"""A judge that only likes length is brought back to even, and a real preference survives."""

import numpy as np
import pytest

from components.evaluation.arena.length_control import win_rates
from components.evaluation.config import BootstrapConfig

CFG = BootstrapConfig(resamples=400)
PROMPTS = 600


def lengths(random: np.random.Generator, shift: float) -> np.ndarray:
    """How much longer the model writes, in characters: on average ``shift``, and sometimes less than the other."""
    return random.normal(shift, 150, PROMPTS)


@pytest.mark.parametrize("shift", [-100.0, 0.0, 60.0, 120.0])
@pytest.mark.parametrize("certain", [True, False])
def test_a_judge_that_likes_length_is_brought_to_about_half(shift: float, certain: bool) -> None:
    random = np.random.default_rng(int(shift) + 200)
    longer = lengths(random, shift)
    chance = (longer > 0).astype(float) if certain else 1 / (1 + np.exp(-longer / 80))
    rates = win_rates((random.random(PROMPTS) < chance).astype(float), longer, CFG)
    assert rates.controlled is not None
    assert abs(rates.controlled.estimate - 0.5) < 0.08
    if abs(shift) > 50:
        assert abs(rates.plain.estimate - 0.5) > 0.08
        assert abs(rates.controlled.estimate - 0.5) < abs(rates.plain.estimate - 0.5)


def test_a_preference_that_has_nothing_to_do_with_length_survives() -> None:
    random = np.random.default_rng(1)
    longer = lengths(random, 100)
    rates = win_rates((random.random(PROMPTS) < 0.7).astype(float), longer, CFG)
    assert rates.controlled is not None
    assert rates.controlled.low < 0.7 < rates.controlled.high
    assert rates.controlled.estimate == pytest.approx(0.7, abs=0.06)


def test_the_win_rate_of_the_other_model_is_the_rest() -> None:
    random = np.random.default_rng(2)
    longer = lengths(random, 40)
    won = (random.random(PROMPTS) < 0.4 + 0.2 * (longer > 0)).astype(float)
    forth, back = win_rates(won, longer, CFG), win_rates(1 - won, -longer, CFG)
    assert forth.controlled is not None
    assert back.controlled is not None
    assert forth.controlled.estimate == pytest.approx(1 - back.controlled.estimate, abs=1e-6)
    assert forth.plain.estimate == pytest.approx(1 - back.plain.estimate)


def test_where_one_always_writes_more_there_is_no_answer() -> None:
    rates = win_rates(np.ones(50), np.linspace(10, 500, 50), CFG)
    assert rates.plain.estimate == 1
    assert rates.controlled is None


def test_equal_lengths_change_nothing() -> None:
    won = np.array([1.0, 1.0, 0.0, 0.5] * 20)
    rates = win_rates(won, np.zeros(80), CFG)
    assert rates.controlled is not None
    assert rates.controlled.estimate == pytest.approx(won.mean(), abs=1e-6)
