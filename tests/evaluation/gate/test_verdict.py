"""The rule of the gate, on made-up evidence; test_stage.py runs it on real models."""

import numpy as np
import pytest
from pydantic import ValidationError

from components.evaluation.config import Criteria, Criterion, GateConfig
from components.evaluation.gate.evidence import Evidence, Measure
from components.evaluation.gate.metrics import METRICS
from components.evaluation.gate.verdict import Verdict, decide

DOCUMENTS = 120
CFG = GateConfig(resamples=1000)
NAMES = tuple(f"test {number}" for number in range(DOCUMENTS))
BYTES = np.random.default_rng(0).integers(200, 3000, size=DOCUMENTS).astype(np.float64)
DIFFICULTY = np.random.default_rng(1).normal(0.5, 0.1, size=DOCUMENTS)
FACTS = np.random.default_rng(2).integers(5, 40, size=DOCUMENTS).astype(np.float64)


def evidence(
    bits: float = 1.0, right: float = 0.8, wasted: float | None = 0.1, failed: float = 0.0, seed: int = 0
) -> Evidence:
    """A model with some noise of its own on every document."""
    random = np.random.default_rng(100 + seed)
    cost = BYTES * DIFFICULTY * bits * random.normal(1.0, 0.02, size=DOCUMENTS)
    known = np.minimum(FACTS, random.binomial(FACTS.astype(int), right))
    found = {
        "bits_per_byte": Measure(NAMES, cost * 1.5, BYTES),
        "bits_per_byte_other": Measure(NAMES, cost, BYTES),
        "facts_right": Measure(NAMES, known.astype(np.float64), FACTS),
    }
    if wasted is not None:
        calls = random.integers(0, 30, size=DOCUMENTS).astype(np.float64)
        found["wasted_calls"] = Measure(NAMES, calls * wasted, calls)
        found["helper_failures"] = Measure(NAMES, calls * failed, calls)
    return found


def with_criteria(**criteria: Criterion) -> GateConfig:
    return CFG.model_copy(update={"criteria": Criteria(**criteria)})


def test_a_model_that_knows_more_facts_is_promoted_and_the_reason_gives_the_figures() -> None:
    verdict = decide(evidence(right=0.9), evidence(right=0.7, seed=1), CFG)
    assert verdict.outcome == "promote"
    assert verdict.reason.startswith("better: facts right 89.9% against 70.0%")
    assert "no worse: bits per byte of what states no fact" in verdict.reason
    assert f"{DOCUMENTS} held-out documents" in verdict.reason


@pytest.mark.parametrize("seed", range(20))
def test_two_per_cent_worse_is_never_promoted(seed: int) -> None:
    worse = decide(evidence(bits=1.02, right=0.78, seed=seed), evidence(seed=1000 + seed), CFG)
    assert worse.outcome == "refuse"
    assert worse.reason.startswith("worse: ")


def test_equal_models_are_promoted_by_noise_in_at_most_one_of_twenty() -> None:
    verdicts = [decide(evidence(seed=seed), evidence(seed=1000 + seed), CFG) for seed in range(100)]
    assert sum(verdict.promote for verdict in verdicts) <= 5
    held = next(verdict for verdict in verdicts if verdict.outcome == "hold")
    assert "not shown to be better" in held.reason
    assert "release.gate.criteria.facts_right.margin=" in held.reason


def test_the_margin_that_the_reason_names_is_enough() -> None:
    challenger, champion = evidence(), evidence(seed=1)
    held = decide(challenger, champion, CFG)
    assert held.outcome == "hold"
    margin = float(held.reason.rpartition("release.gate.criteria.facts_right.margin=")[2].partition(",")[0])
    lenient = with_criteria(facts_right=Criterion(role="decides", margin=margin))
    assert decide(challenger, champion, lenient).outcome == "promote"


def test_what_guards_is_a_reason_to_refuse_but_none_to_promote() -> None:
    guarded = with_criteria(
        facts_right=Criterion(role="guards"), bits_per_byte_other=Criterion(role="decides"), bits_per_byte=Criterion()
    )
    assert decide(evidence(right=0.95), evidence(right=0.5), guarded).outcome == "hold"
    assert decide(evidence(bits=0.8, right=0.5), evidence(right=0.95), guarded).outcome == "refuse"


def test_a_reported_metric_has_no_say() -> None:
    reported = with_criteria(facts_right=Criterion(), bits_per_byte_other=Criterion(role="decides"))
    verdict = decide(evidence(bits=0.9, right=0.2), evidence(right=0.9, seed=1), reported)
    assert verdict.outcome == "promote"
    (finding,) = [each for each in verdict.findings if each.metric == "facts_right"]
    assert finding.difference is None
    assert finding.challenger is not None


@pytest.mark.parametrize("champion", [None, evidence(right=0.1, seed=1)])
def test_a_limit_is_a_limit_whatever_the_champion_does(champion: Evidence | None) -> None:
    wasteful = decide(evidence(right=0.99, wasted=0.95), champion, CFG)
    assert wasteful.outcome == "refuse"
    assert wasteful.reason.startswith("calls wasted on what is no fact 95.0%, at most 90.0% is allowed")
    broken = decide(evidence(right=0.99, failed=0.5), champion, CFG)
    assert "calls that the helper fails 50.0%, at most 10.0% is allowed" in broken.reason
    demanding = with_criteria(facts_right=Criterion(role="decides", at_least=0.999))
    assert "at least 99.9% is required" in decide(evidence(right=0.99), champion, demanding).reason


def test_a_model_without_calls_compares_with_one_that_calls() -> None:
    plain = evidence(right=0.5, wasted=None)
    assert decide(evidence(right=0.9), plain, CFG).outcome == "promote"
    assert decide(plain, evidence(right=0.9), CFG).outcome == "refuse"


def test_the_first_model_is_promoted_unless_it_is_broken() -> None:
    first = decide(evidence(), None, CFG)
    assert first.outcome == "promote"
    assert "there is no champion yet: facts right " in first.reason
    damaged = dict(evidence())
    damaged["bits_per_byte"] = Measure(NAMES, np.where(BYTES > 2500, np.nan, 1.0), BYTES)
    verdict = decide(damaged, None, CFG)
    assert verdict.outcome == "refuse"
    assert "no finite value on" in verdict.reason


def test_too_few_documents_hold_what_looks_better() -> None:
    few = {
        name: Measure(each.examples[:5], each.numerator[:5], each.denominator[:5])
        for name, each in evidence(right=0.99).items()
    }
    verdict = decide(few, few, CFG)
    assert verdict.outcome == "hold"
    assert "5, at least 10 are needed" in verdict.reason


def test_more_metrics_make_wider_intervals() -> None:
    few = with_criteria(
        bits_per_byte_other=Criterion(), wasted_calls=Criterion(), facts_right=Criterion(role="decides")
    )
    one, many = (decide(evidence(), evidence(seed=1), cfg) for cfg in (few, CFG))
    assert one.confidence == pytest.approx(0.95)
    assert many.confidence > one.confidence

    def width(verdict: Verdict) -> float:
        (finding,) = [each for each in verdict.findings if each.metric == "facts_right"]
        assert finding.difference is not None
        return finding.difference.high - finding.difference.low

    assert width(many) > width(one)


def test_the_verdict_is_the_same_every_time() -> None:
    assert decide(evidence(), evidence(seed=1), CFG) == decide(evidence(), evidence(seed=1), CFG)


def test_every_metric_has_a_criterion_and_its_flat_figures() -> None:
    assert METRICS.keys() == Criteria.model_fields.keys()
    metrics = decide(evidence(right=0.9), evidence(right=0.7, seed=1), CFG).metrics
    low, middle, high = (metrics[f"facts_right.difference{end}"] for end in ("_low", "", "_high"))
    assert low < middle < high
    assert middle == pytest.approx(metrics["facts_right.challenger"] - metrics["facts_right.champion"])


def test_time_cannot_decide() -> None:
    with pytest.raises(ValidationError, match="set at_most instead"):
        Criteria(seconds_per_token=Criterion(role="guards"))
