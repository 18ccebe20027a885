"""The rule of the gate, on synthetic scores; test_gate.py runs it on real models."""

import math

import numpy as np
import pytest

from components.evaluation.config import GateConfig
from components.evaluation.decision import decide
from components.evaluation.likelihood import DocumentScores

LENGTHS = np.random.default_rng(0).integers(200, 3000, size=300)
DIFFICULTY = np.random.default_rng(1).normal(1.5, 0.3, size=300)


def scores(offset: float, noise: float = 0.05, seed: int = 2, documents: int = 300) -> DocumentScores:
    """A model ``offset`` bits per byte worse than the documents' own difficulty, with some noise of its own."""
    own = np.random.default_rng(seed).normal(0, noise, size=300) if noise else 0.0
    nats = LENGTHS * (DIFFICULTY + offset + own) * math.log(2)
    return DocumentScores(nats[:documents], LENGTHS[:documents], LENGTHS[:documents] // 4, np.zeros(documents))


def test_a_better_model_is_promoted_and_the_reason_has_the_numbers() -> None:
    decision = decide(scores(-0.05, seed=3), scores(0), GateConfig())
    assert decision.promote
    assert decision.difference == pytest.approx(-0.05, abs=0.01)
    assert decision.interval_low < decision.difference < decision.interval_high < 0
    assert "better by 0.0" in decision.reason
    assert "95 % interval -0.0" in decision.reason


def test_a_worse_model_is_refused_and_told_by_how_much_and_what_to_do() -> None:
    decision = decide(scores(0.05, seed=3), scores(0), GateConfig())
    assert not decision.promote
    assert decision.interval_low > 0
    assert "the challenger is worse by 0.0" in decision.reason
    assert "Train it longer" in decision.reason


def test_pairing_sees_a_difference_far_smaller_than_the_scatter_between_documents() -> None:
    """Documents scatter by 0.3 bits per byte, so 300 of them leave each score uncertain by 0.02; 0.004 still shows."""
    assert decide(scores(-0.004, noise=0.01, seed=3), scores(0, noise=0.01), GateConfig()).promote


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_an_equal_model_is_refused_by_default_and_accepted_with_a_margin(noise: float) -> None:
    challenger, champion = scores(0, noise, seed=3), scores(0, noise, seed=2)
    refused = decide(challenger, champion, GateConfig())
    assert not refused.promote
    assert "not shown to be better" in refused.reason
    accepted = decide(challenger, champion, GateConfig(margin_bits_per_byte=0.02))
    assert accepted.promote


def test_the_margin_that_a_refusal_names_is_enough_and_less_is_not() -> None:
    challenger, champion = scores(0.05, seed=3), scores(0)
    refused = decide(challenger, champion, GateConfig())
    named = float(refused.reason.rsplit("above ", 1)[1].rstrip("."))
    assert decide(challenger, champion, GateConfig(margin_bits_per_byte=named + 1e-6)).promote
    assert not decide(challenger, champion, GateConfig(margin_bits_per_byte=named - 2e-4)).promote


def test_a_negative_margin_asks_for_more_than_better() -> None:
    decision = decide(scores(-0.05, seed=3), scores(0), GateConfig(margin_bits_per_byte=-0.1))
    assert not decision.promote
    assert "not shown to be better by 0.1" in decision.reason


@pytest.mark.parametrize("seed", range(20))
def test_a_model_that_only_looks_better_by_chance_is_rarely_promoted(seed: int) -> None:
    """The upper end of a 95 % interval is wrong in 2.5 % of equal pairs: none of these 20 fixed ones."""
    assert not decide(scores(0, seed=100 + seed), scores(0, seed=500 + seed), GateConfig()).promote


def test_the_decision_is_the_same_every_time() -> None:
    challenger, champion = scores(-0.01, seed=3), scores(0)
    assert decide(challenger, champion, GateConfig()) == decide(challenger, champion, GateConfig())


def test_the_first_model_is_promoted_because_there_is_no_champion() -> None:
    decision = decide(scores(0), None, GateConfig())
    assert decision.promote
    assert "no champion yet" in decision.reason
    assert decision.metrics == {"challenger_bits_per_byte": pytest.approx(1.5, abs=0.05)}


@pytest.mark.parametrize("champion", [None, scores(0)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_without_finite_likelihood_is_refused_also_as_the_first(
    champion: DocumentScores | None, value: float
) -> None:
    challenger = scores(0)
    challenger.nats[7] = value
    decision = decide(challenger, champion, GateConfig())
    assert not decision.promote
    assert "no finite likelihood to 1 of 300" in decision.reason
    assert decision.metrics == {}


def test_a_model_worse_than_none_is_refused_also_as_the_first() -> None:
    decision = decide(scores(7), None, GateConfig())
    assert not decision.promote
    assert "more than the 8 of no model at all" in decision.reason


def test_a_broken_champion_is_replaced() -> None:
    champion = scores(0)
    champion.nats[:] = math.nan
    decision = decide(scores(0), champion, GateConfig())
    assert decision.promote
    assert "champion gives no finite likelihood" in decision.reason


def test_too_few_documents_are_no_proof_whatever_they_say() -> None:
    decision = decide(scores(-0.5, documents=9), scores(0, documents=9), GateConfig())
    assert not decision.promote
    assert "too few held-out documents to decide: 9, at least 10" in decision.reason
    assert decide(scores(-0.5, documents=9), scores(0, documents=9), GateConfig(min_documents=9)).promote


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin_bits_per_byte": math.nan},
        {"margin_bits_per_byte": math.inf},
        {"confidence": 1.0},
        {"confidence": 0.5},
        {"resamples": 99},
        {"max_documents": 0},
        {"min_documents": 0},
        {"seed": -1},
        {"device": "tpu"},
        {"margin": 0.1},
    ],
)
def test_settings_out_of_range_or_unknown_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GateConfig.model_validate(wrong)
