"""Whether a version on trial answers worse than the one that it may replace: more failures, or a longer wait.

Both are compared over the same time and the same traffic; which of them a request gets is chance.
"""

from typing import Literal, NamedTuple

from components.deployment.config import CanaryConfig
from components.deployment.figures import Figures, p95

# Below these, a difference is noise: a single failure among fifty answers, a few milliseconds on a busy machine.
LEAST_FAILURES = 0.01
LEAST_SECONDS = 0.02


class Fault(NamedTuple):
    """Why a trial must end."""

    kind: Literal["errors", "latency"]
    text: str


def fault(trial: Figures, current: Figures, cfg: CanaryConfig) -> Fault | None:
    """What is wrong with the version on trial; ``None`` if nothing is, or too little is known.

    Failures are compared before ``canary_requests`` answers too, as if the missing ones had succeeded: a version that
    fails always is gone after a few.
    """
    rate = current.failures / current.answers if current.answers else 0.0
    allowed = cfg.canary_error_factor * max(rate, LEAST_FAILURES)
    if trial.failures > allowed * max(trial.answers, cfg.canary_requests):
        return Fault("errors", f"{trial.failures} of {trial.answers} answers failed, of the other version's {rate:.1%}")
    if min(trial.answers, current.answers) < cfg.canary_requests:
        return None
    for what, mine, theirs in (
        ("the first piece of an answer", p95(trial.first_seconds), p95(current.first_seconds)),
        ("the pause between two pieces", p95(trial.pause_seconds), p95(current.pause_seconds)),
    ):
        if mine > cfg.canary_latency_factor * theirs and mine - theirs > LEAST_SECONDS:
            return Fault(
                "latency",
                f"{what} took {mine * 1000:.0f} ms (p95), {mine / theirs:.1f} times the other version's"
                if theirs
                else f"{what} took {mine * 1000:.0f} ms (p95), the other version's no time",
            )
    return None
