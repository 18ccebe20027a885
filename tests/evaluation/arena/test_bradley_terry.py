"""Strengths are recovered from simulated games, orders cancel, and what cannot be compared is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from components.core.errors import InputError
from components.evaluation.arena.bradley_terry import ranked, require_connected, strengths
from components.evaluation.config import BootstrapConfig

CFG = BootstrapConfig(resamples=500)
EVERYONE = ~np.eye(3, dtype=bool)


def games(true: np.ndarray, prompts: int, random: np.random.Generator, order_bias: float = 0.0) -> np.ndarray:
    """One game of every pair on each prompt, in both orders; the first text has ``order_bias`` in its favour."""
    models = len(true)
    wins = np.zeros((prompts, models, models))
    for i in range(models):
        for j in range(models):
            if i != j:
                won = random.random(prompts) < expit(true[i] - true[j] + order_bias)
                wins[:, i, j] += won
                wins[:, j, i] += ~won
    return wins


@settings(max_examples=20)
@given(st.lists(st.floats(-1.5, 1.5), min_size=2, max_size=6), st.integers(0, 100))
def test_strengths_are_recovered_from_simulated_games(true: list[float], seed: int) -> None:
    centred = np.array(true) - np.mean(true)
    wins = games(centred, 4000, np.random.default_rng(seed))
    found = strengths(wins.sum(axis=0), ~np.eye(len(true), dtype=bool))
    assert found == pytest.approx(centred, abs=0.2)
    assert found.sum() == pytest.approx(0, abs=1e-9)


def test_the_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    true, covered = np.array([0.6, 0.0, -0.6]), 0
    for seed in range(60):
        found = ranked(games(true, 150, np.random.default_rng(seed)), CFG)
        covered += sum(each.low <= value <= each.high for each, value in zip(found, true, strict=True))
    assert 0.88 < covered / 180 <= 1


def test_two_models_have_the_log_odds_of_their_games() -> None:
    wins = np.array([[0.0, 29.5], [9.5, 0.0]])  # with the drawn game more, 30 to 10
    found = strengths(wins, ~np.eye(2, dtype=bool))
    assert found[0] - found[1] == pytest.approx(np.log(3))


def test_who_wins_everything_is_strong_and_finite() -> None:
    wins = np.array([[0.0, 500.0, 500.0], [0.0, 0.0, 250.0], [0.0, 250.0, 0.0]])
    found = strengths(wins, EVERYONE)
    assert np.isfinite(found).all()
    assert found[0] - found[1] > 5
    assert found[1] == pytest.approx(found[2])


def test_a_judge_that_likes_the_first_text_does_no_harm_where_both_orders_are_played() -> None:
    true = np.array([0.5, 0.0, -0.5])
    wins = games(true, 8000, np.random.default_rng(5), order_bias=0.8)
    assert strengths(wins.sum(axis=0), EVERYONE) == pytest.approx(true, abs=0.1)
    only_order = np.array([[0.0, 1.0], [1.0, 0.0]])  # who stood first won, both times
    assert strengths(only_order, ~np.eye(2, dtype=bool)) == pytest.approx([0, 0])


def test_models_are_ranked_through_others_that_both_have_met() -> None:
    wins = np.zeros((1, 3, 3))
    wins[0, 0, 1], wins[0, 1, 0] = 300, 100
    wins[0, 1, 2], wins[0, 2, 1] = 300, 100
    require_connected(wins, ["a", "b", "c"])
    first, _, last = ranked(wins, CFG)
    assert first.estimate - last.estimate == pytest.approx(2 * np.log(3), abs=0.02)


def test_groups_that_never_met_are_named() -> None:
    wins = np.zeros((1, 4, 4))
    wins[0, 0, 2] = wins[0, 1, 3] = 5
    with pytest.raises(InputError, match=r"a, c \| b, d"):
        require_connected(wins, list("abcd"))
