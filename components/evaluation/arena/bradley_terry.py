"""Strengths out of games: P(i beats j) = sigmoid(strength_i - strength_j) (Bradley & Terry 1952).

This is a logistic regression without features, fitted by Newton's method. A tie is half a win for both (the usual
simplification of Davidson 1970). Every two models that met have one drawn game more, so that a model that won all of
its games has a strength that is large and finite. Strengths are relative, so their mean is 0.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.sparse.csgraph import connected_components

from components.core.errors import InputError
from components.evaluation.config import BootstrapConfig
from components.evaluation.results import Interval

Wins = Float[np.ndarray, "*batch models models"]
"""At ``[i, j]`` how many games ``i`` has won against ``j``, ties as halves."""
Strengths = Float[np.ndarray, "*batch models"]

_STEPS = 100
_LONGEST_STEP = 2.0  # Newton's steps overshoot where one model has won nearly everything
_CLOSE = 1e-10
_DRAWS_AT_ONCE = 1000


def strengths(wins: Wins, met: Bool[np.ndarray, "models models"]) -> Strengths:
    """The likeliest strengths, in log-odds, with mean 0. ``met`` says who has met whom, and must connect all models."""
    games_won = wins + 0.5 * met
    games = games_won + np.swapaxes(games_won, -1, -2)
    won = games_won.sum(axis=-1)
    models = wins.shape[-1]
    found: Strengths = np.zeros(wins.shape[:-1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(found[..., None, :] - found[..., :, None]))
        gradient = won - (games * chance).sum(axis=-1)
        variance = games * chance * (1 - chance)
        # The Laplacian of the games has the constant vector as its kernel; adding 1 fixes the mean at 0.
        curvature = np.eye(models) * variance.sum(axis=-1)[..., None] - variance + 1.0
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        found += np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        if np.abs(step).max() < _CLOSE:
            break
    found -= found.mean(axis=-1, keepdims=True)
    return found


def ranked(wins: Float[np.ndarray, "prompts models models"], cfg: BootstrapConfig) -> list[Interval]:
    """The strength of every model with its interval: prompts are drawn again, with all games on them."""
    met = _met(wins)
    estimate = strengths(wins.sum(axis=0), met)
    random = np.random.default_rng(cfg.seed)
    prompts, models = wins.shape[:2]
    flat = wins.reshape(prompts, -1)
    drawn = []
    for start in range(0, cfg.resamples, _DRAWS_AT_ONCE):
        count = min(_DRAWS_AT_ONCE, cfg.resamples - start)
        times = random.multinomial(prompts, np.full(prompts, 1 / prompts), size=count)
        drawn.append(strengths((times @ flat).reshape(count, models, models), met))
    tail = (1 - cfg.confidence) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail], axis=0)
    return [Interval(float(each), float(low[i]), float(high[i])) for i, each in enumerate(estimate)]


def _met(wins: Float[np.ndarray, "prompts models models"]) -> Bool[np.ndarray, "models models"]:
    games = wins.sum(axis=0)
    met: Bool[np.ndarray, "models models"] = (games + games.T) > 0
    return met


def require_connected(wins: Float[np.ndarray, "prompts models models"], models: list[str]) -> None:
    """Raise ``InputError`` naming the groups if some models cannot be compared, not even through others."""
    groups, member = connected_components(_met(wins), directed=False)
    if groups > 1:
        listed = [", ".join(np.array(models)[member == group]) for group in range(groups)]
        raise InputError(
            f"no judged game connects these groups of models: {' | '.join(listed)}. Their strengths have no common "
            "scale: let a model of one group meet one of the other (arena.pairs=all), or see what the judge said"
        )
