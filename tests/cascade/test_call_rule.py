import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.cascade.call_rule import BAND, CallRule, FixedThreshold, Least, RunningQuantile, call_rule
from components.cascade.config import CascadeConfig
from tests.fakes import calibration

UNIFORM = calibration().quantiles


def called(rule: CallRule, scores: Sequence[float]) -> list[bool]:
    decisions = []
    for score in scores:
        decisions.append(rule.wants(score))
        rule.record(score, decisions[-1])
    return decisions


def drifting(kind: str, count: int, seed: int) -> list[float]:
    """Streams that no threshold from calibration would fit."""
    chance = random.Random(seed)
    if kind == "rising":
        return [i / count * chance.random() for i in range(count)]
    if kind == "falling":
        return [(1 - i / count) * chance.random() for i in range(count)]
    if kind == "all certain":
        return [1.0] * count
    if kind == "all zero":
        return [0.0] * count
    if kind == "in blocks":
        return [float(i // 64 % 2) + chance.random() * 1e-3 for i in range(count)]
    return sorted((chance.random() for _ in range(count)), reverse=kind == "sorted down")


@settings(max_examples=60, deadline=None)
@given(
    budget=st.floats(0, 1),
    kind=st.sampled_from(["rising", "falling", "all certain", "all zero", "in blocks", "sorted up", "sorted down"]),
    count=st.integers(512, 1200),
    seed=st.integers(0, 100),
)
def test_realised_calls_are_within_a_point_after_512_decisions_however_the_scores_drift(
    budget: float, kind: str, count: int, seed: int
) -> None:
    decisions = called(RunningQuantile(budget, UNIFORM), drifting(kind, count, seed))
    total = 0
    for number, decision in enumerate(decisions, 1):
        total += decision
        assert abs(total - budget * number) <= BAND + 1e-6
        if number >= 512:
            assert abs(total / number - budget) <= 0.01


@settings(max_examples=40, deadline=None)
@given(budget=st.floats(0, 1), scores=st.binary(min_size=64, max_size=80))
def test_realised_calls_are_within_a_point_on_any_scores_at_all(budget: float, scores: bytes) -> None:
    scores *= 8
    assert abs(sum(called(RunningQuantile(budget, UNIFORM), scores)) / len(scores) - budget) <= 0.01


@pytest.mark.parametrize("budget", [0.05, 0.15, 0.4])
def test_on_text_like_the_calibrations_it_calls_the_highest_scores(budget: float) -> None:
    chance = random.Random(0)
    scores = [chance.random() for _ in range(4000)]
    decisions = called(RunningQuantile(budget, UNIFORM), scores)
    right = sum(score > 1 - budget for score, decision in zip(scores, decisions, strict=True) if decision)
    assert right / sum(decisions) > 0.85


def test_the_window_follows_scores_of_another_size() -> None:
    """A calibration a thousand times too high: after a window the highest of the new scores are called, not any."""
    chance = random.Random(0)
    scores = [chance.random() / 1000 for _ in range(3000)]
    decisions = called(RunningQuantile(0.15, UNIFORM), scores)[500:]
    chosen = [score for score, decision in zip(scores[500:], decisions, strict=True) if decision]
    assert sorted(chosen)[len(chosen) // 2] > 0.85 / 1000


def test_budgets_of_nothing_and_everything_are_exact() -> None:
    scores = [1.0, 0.0, 0.5] * 20
    assert not any(called(RunningQuantile(0.0, UNIFORM), scores))
    assert all(called(RunningQuantile(1.0, UNIFORM), scores))


def test_a_refused_call_is_not_counted() -> None:
    rule = RunningQuantile(0.5, UNIFORM)
    for _ in range(100):
        rule.record(0.9, called=False)
    assert (rule.calls, rule.ahead) == (0, -50.0)


def test_the_rule_of_the_config_is_taken_and_text_without_facts_is_never_called() -> None:
    fixed = call_rule(CascadeConfig(rule="fixed"), 0.2, calibration())
    assert isinstance(fixed, FixedThreshold)
    assert fixed.threshold == pytest.approx(0.8)
    assert isinstance(call_rule(CascadeConfig(), 0.2, calibration()), RunningQuantile)
    for config in (CascadeConfig(), CascadeConfig(rule="fixed")):
        for budget in (0.0, 0.2, 1.0):
            assert not any(called(call_rule(config, budget, calibration(factual=False)), [1.0] * 50))


def test_the_running_quantile_of_another_score_starts_from_that_scores_calibration() -> None:
    record = calibration().model_copy(update={"post_hoc": {"entropy": [q * 5 for q in UNIFORM]}})
    rule = call_rule(CascadeConfig(call_score="entropy"), 0.2, record)
    assert isinstance(rule, RunningQuantile)
    assert rule.threshold == pytest.approx(4.0, abs=0.1)


def test_a_model_that_says_nan_is_an_error() -> None:
    with pytest.raises(ValueError, match="score of a position is NaN"):
        RunningQuantile(0.5, UNIFORM).record(math.nan, False)


@pytest.mark.parametrize("rule", ["running_quantile", "fixed"])
def test_below_the_least_probability_no_call_is_made_and_above_it_the_budget_is_the_limit(rule: str) -> None:
    config = CascadeConfig.model_validate({"rule": rule, "least_call_probability": 0.5})
    few = [0.9 if number % 20 == 0 else 0.4 for number in range(600)]
    assert called(call_rule(config, 0.2, calibration(0.0, 0.6)), few) == [score > 0.5 for score in few]
    many = call_rule(config.model_copy(update={"rule": "running_quantile"}), 0.2, calibration())
    assert sum(called(many, [0.9] * 600)) <= 0.2 * 600 + BAND


def test_doubt_is_no_probability_and_has_no_least() -> None:
    config = CascadeConfig(call_score="entropy", least_call_probability=0.5)
    assert not isinstance(call_rule(config, 0.2, calibration()), Least)
    assert isinstance(call_rule(config.model_copy(update={"call_score": "call"}), 0.2, calibration()), Least)
