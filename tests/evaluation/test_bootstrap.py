import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluation import bootstrap
from components.evaluation.bootstrap import ratio_interval
from components.evaluation.config import BootstrapConfig


def documents(random: np.random.Generator, count: int, bits_per_byte: float) -> tuple[np.ndarray, np.ndarray]:
    """Documents of very different length whose bits scatter around ``bits_per_byte`` each."""
    n_bytes = random.lognormal(6, 0.8, count).round() + 1
    return n_bytes * (bits_per_byte + random.normal(0, 0.3, count)), n_bytes


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """300 corpora of 120 documents: a 90 % interval must hold the true ratio in about 270 (deviation 5)."""
    random = np.random.default_rng(1)
    cfg = BootstrapConfig(confidence=0.9, resamples=400)
    covered = 0
    for _ in range(300):
        interval = ratio_interval(*documents(random, 120, 1.5), cfg)
        covered += interval.low <= 1.5 <= interval.high
    assert 250 <= covered <= 290


def test_the_width_agrees_with_the_normal_approximation_of_a_ratio() -> None:
    numerator, denominator = documents(np.random.default_rng(2), 500, 1.5)
    interval = ratio_interval(numerator, denominator, BootstrapConfig())
    residual = numerator - interval.estimate * denominator
    deviation = np.sqrt((residual**2).sum()) / denominator.sum()
    assert interval.estimate == pytest.approx(numerator.sum() / denominator.sum())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * deviation, rel=0.05)


def test_the_same_scores_and_seed_give_the_same_interval_and_another_seed_does_not() -> None:
    scores = documents(np.random.default_rng(3), 40, 1.0)
    first = ratio_interval(*scores, BootstrapConfig(seed=5))
    assert first == ratio_interval(*scores, BootstrapConfig(seed=5))
    assert first != ratio_interval(*scores, BootstrapConfig(seed=6))


def test_a_higher_confidence_gives_a_wider_interval() -> None:
    scores = documents(np.random.default_rng(4), 40, 1.0)
    narrow = ratio_interval(*scores, BootstrapConfig(confidence=0.8))
    wide = ratio_interval(*scores, BootstrapConfig(confidence=0.99))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


def test_drawing_in_pieces_uses_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for 3 resamples at once, 100 must still all be drawn: none stays at its initial memory."""
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 30)
    interval = ratio_interval(np.arange(10.0) + 5, np.ones(10), BootstrapConfig(resamples=100, confidence=0.999))
    assert 5 <= interval.low < interval.estimate < interval.high <= 14


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(1, 1e4)), min_size=1, max_size=30),
    st.floats(0.1, 10),
)
def test_the_interval_scales_with_its_figures_and_stays_within_the_items(
    items: list[tuple[float, float]], factor: float
) -> None:
    numerator, denominator = np.array(items).T
    cfg = BootstrapConfig(resamples=100)
    interval = ratio_interval(numerator, denominator, cfg)
    scaled = ratio_interval(factor * numerator, denominator, cfg)
    ratios, slack = numerator / denominator, 1e-9 * np.abs(numerator).max()
    assert ratios.min() - slack <= interval.low <= interval.high <= ratios.max() + slack
    assert scaled == pytest.approx(factor * np.array(interval), rel=1e-9, abs=1e-9)
