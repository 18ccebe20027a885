"""When a version on trial is worse than the one that it may replace."""

import pytest

from components.deployment.canary import fault
from components.deployment.config import CanaryConfig
from components.deployment.figures import AnswerTimes, Figures, p95

CONFIG = CanaryConfig(canary=0.1, canary_requests=50, canary_error_factor=2.0, canary_latency_factor=2.0)


def figures(answers: int, failures: int = 0, first: float = 0.1, pause: float = 0.01) -> Figures:
    found = Figures()
    for number in range(answers):
        found.add(number < failures, [first], [pause] * 4)
    return found


@pytest.mark.parametrize(
    ("trial", "current", "kind"),
    [
        (figures(60), figures(600), None),
        (figures(3, failures=1), figures(600), None),  # one may always fail
        (figures(3, failures=2), figures(600), "errors"),  # before there are fifty answers
        (figures(60, failures=6), figures(600, failures=60), None),  # no worse than the other
        (figures(60, failures=13), figures(600, failures=60), "errors"),
        (figures(60, first=0.21), figures(600), "latency"),
        (figures(60, first=0.19), figures(600), None),
        (figures(49, first=5.0), figures(600), None),  # too few
        (figures(60, first=5.0), figures(49), None),
        (figures(60, pause=0.031), figures(600), "latency"),
        (figures(60, pause=0.029), figures(600), None),  # three times, but only 19 ms: noise
    ],
)
def test_the_rule(trial: Figures, current: Figures, kind: str | None) -> None:
    found = fault(trial, current, CONFIG)
    assert (found.kind if found else None) == kind


def test_who_left_before_the_first_piece_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that hangs delivers nothing, and must be noticed all the same."""
    times = AnswerTimes(2)
    times.end()
    assert len(times.first_seconds) == 2


def test_the_95th_percentile() -> None:
    assert p95([]) == 0.0
    assert p95([float(number) for number in range(101)]) == 95.0
