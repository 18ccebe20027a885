"""POSIX: zero where the wording does not matter, and by hand on a small case."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from components.data.world.comprehension import World
from components.evaluation.robustness.items import Item, fact_of
from components.evaluation.robustness.openings import openings
from components.evaluation.robustness.sensitivity import (
    METRIC,
    sensitivity,
    sensitivity_scores,
    spelling,
    templates,
    wordings,
)
from components.evaluation.text_models.base import GREEDY, Continuation, Draw, Likelihood, Written
from tests.evaluation.robustness.conftest import CFG, TableModel

ITEM = Item("id", "Where?", "one", "x", (), ())


@dataclass
class Spelled(TableModel):
    """Answers each prompt in its own way, and finds an answer likely by the length of the prompt."""

    def write(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        stop: Sequence[str] = (),
        presence_penalty: float = 0.0,
        draw: Draw = GREEDY,
    ) -> list[Written]:
        return [Written("" if prompt == "silent" else f" {prompt} again", 2) for prompt in prompts]

    def likelihoods(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        return [Likelihood(-float(len(each.context)), False, 2) for each in requests]


def test_the_index_is_that_of_the_paper() -> None:
    # Lengths 3, 5 and 4, two tokens an answer: |differences| / 2 over ordered pairs: (2 + 1 + 2 + 1 + 1 + 1) / 2 / 6.
    (found,) = sensitivity(Spelled(None), [ITEM], lambda _: ["one", "three", "four"], 8)
    assert found == pytest.approx((2 + 1 + 2 + 1 + 1 + 1) / 2 / 6)
    (found,) = sensitivity(Spelled(None), [ITEM], lambda _: ["one", "three", "silent"], 8)
    assert found == pytest.approx(((2 + 3) / 2 / 2 + (2 + 1) / 2 / 2) / 2)


def test_prompts_with_the_same_likelihoods_have_index_zero_and_one_prompt_has_none() -> None:
    assert sensitivity(Spelled(None), [ITEM], lambda _: ["one", "two", "six"], 8) == [0.0]
    rows = sensitivity_scores(Spelled(None), "task", [ITEM], {"alone": lambda _: ["one"]}, 8)
    assert [(row.score, row.weight, row.metric, row.format) for row in rows] == [(0.0, 0.0, METRIC, "alone")]


def test_variants_are_different_and_begin_with_the_prompt_itself(items: list[Item], world: World) -> None:
    for item in items:
        for made in (spelling(item, CFG), templates(item, CFG), wordings(item, world, CFG)):
            assert made[0] == item.prompt
            assert len(set(made)) == len(made) <= CFG.variants
    assert all(len(templates(item, CFG)) == CFG.variants for item in items)
    assert any(len(wordings(item, world, CFG)) > 1 for item in items)


def test_every_wording_asks_for_the_same_fact(items: list[Item], world: World) -> None:
    asked = 0
    for item in items:
        subject, relation = fact_of(item, world)
        for opening in openings(subject, relation):
            value = world.next_value(opening)
            assert value is not None, opening
            assert any(option.fact_id == f"{subject.id}.{relation}" for option in value.options), opening
            asked += 1
    assert asked > len(items) / 2
