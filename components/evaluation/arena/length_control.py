"""What a win rate would be if both models wrote texts of the same length.

Judges like long texts. After Dubois et al. (2024, arXiv 2404.04475, section 3): a logistic regression of winning on an
intercept and tanh of the standardised difference of lengths; the win rate at equal lengths is that of the intercept
alone. Their third term, the difficulty of an instruction, needs games of many models and is left out.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from components.evaluation.config import BootstrapConfig
from components.evaluation.results import Interval

_STEPS = 60
_LONGEST_STEP = 2.0
_RIDGE = 1.0  # keeps the weight of the length finite where length alone decides
_LEAST_OVERLAP = 0.05
_DRAWS_AT_ONCE = 1000

Prompts = Float[np.ndarray, " prompts"]


class WinRates(NamedTuple):
    """How often one model wins against another."""

    plain: Interval
    controlled: Interval | None
    """At equal lengths; ``None`` where one of the two nearly always writes more, so that equal lengths are a guess."""


def win_rates(won: Prompts, longer: Prompts, cfg: BootstrapConfig) -> WinRates:
    """Win rates with intervals over the prompts, which are drawn again.

    Arguments:
        won: for each prompt, the share of its games that the model won, from 0 to 1, ties as halves.
        longer: for each prompt, by how many characters its text is longer than the other's; may be negative.
    """
    overlap = _overlap(longer)
    length = np.tanh(longer / (longer.std() or 1.0))
    plain, controlled = [], []
    for times in _drawn_again(len(won), cfg):
        plain.append(times @ won / len(won))
        if overlap:
            controlled.append(_at_equal_length(won, length, times))
    rate = _interval(float(won.mean()), plain, cfg)
    if not overlap:
        return WinRates(rate, None)
    estimate = _at_equal_length(won, length, np.ones((1, len(won))))
    return WinRates(rate, _interval(float(estimate[0]), controlled, cfg))


def _drawn_again(prompts: int, cfg: BootstrapConfig) -> Iterator[Float[np.ndarray, "draws prompts"]]:
    """How often each prompt counts, for some resamples at a time."""
    random = np.random.default_rng(cfg.seed)
    for start in range(0, cfg.resamples, _DRAWS_AT_ONCE):
        draws = min(_DRAWS_AT_ONCE, cfg.resamples - start)
        yield random.multinomial(prompts, np.full(prompts, 1 / prompts), size=draws).astype(np.float64)


def _overlap(longer: Prompts) -> bool:
    """Whether either text is the shorter one often enough."""
    return min(float((longer <= 0).mean()), float((longer >= 0).mean())) >= _LEAST_OVERLAP


def _at_equal_length(won: Prompts, length: Prompts, times: Float[np.ndarray, "draws prompts"]) -> np.ndarray:
    """The win rate without a difference of lengths, for prompts that count ``times``."""
    features = np.stack([np.ones_like(length), length], axis=1)
    products = features[:, :, None] * features[:, None, :]
    penalty = np.diag([1e-6, _RIDGE])
    found = np.zeros((len(times), 2))
    for _ in range(_STEPS):
        chance = expit(found @ features.T)
        gradient = (times * (won - chance)) @ features - found @ penalty
        curvature = np.tensordot(times * chance * (1 - chance), products, axes=1) + penalty
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        found += np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        if np.abs(step).max() < 1e-8:
            break
    rate: np.ndarray = expit(found[:, 0])
    return rate


def _interval(estimate: float, drawn: Sequence[np.ndarray], cfg: BootstrapConfig) -> Interval:
    tail = (1 - cfg.confidence) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return Interval(estimate, float(low), float(high))
