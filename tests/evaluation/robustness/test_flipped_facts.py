"""Flipped facts: the prompts say what they should, and the scores follow from the answers."""

import pytest

from components.data.world.comprehension import World
from components.evaluation.robustness.flipped_facts import (
    ANOTHER_FACT,
    ANOTHER_SUBJECT,
    COUNTERFACTUAL,
    flipped,
    flipped_scores,
)
from components.evaluation.robustness.items import Item, fact_of
from components.evaluation.score_table import Score
from tests.evaluation.robustness.conftest import CFG, TableModel

TASK = "robustness.flipped_facts"


def share(rows: list[Score], way: str, metric: str) -> float:
    found = [row.score for row in rows if (row.format, row.metric) == (way, metric)]
    assert len(found) > 20
    return sum(found) / len(found)


def test_the_prompts_state_what_they_claim(items: list[Item], world: World) -> None:
    for item in items:
        subject, relation = fact_of(item, world)
        for way in flipped(item, world, seed=0):
            if way.way == ANOTHER_SUBJECT:
                assert subject.name not in way.prompt
                assert way.answer != item.answer
                truth = world.next_value(way.prompt)
                assert truth is not None
                assert way.answer in {option.text.strip(' "') for option in truth.options}
            else:
                assert way.prompt.endswith(f" {item.prompt}")
                read = world.claims(way.prompt.removesuffix(item.prompt), subject.name)
                (claim,) = [each for each in read.claims if each.fact_id.startswith(f"{subject.id}.")]
                assert claim.true is (way.way == ANOTHER_FACT)
                assert (claim.fact_id == f"{subject.id}.{relation}") is (way.way == COUNTERFACTUAL)
                assert (claim.stated == way.claim) is (way.way == COUNTERFACTUAL)


def test_a_model_that_knows_the_table_changes_when_it_must_and_stays_when_it_must(
    items: list[Item], world: World, knowing: TableModel
) -> None:
    rows = flipped_scores(knowing, TASK, items, world, 0, CFG.max_tokens)
    assert share(rows, ANOTHER_SUBJECT, "changed") == 1.0
    assert share(rows, ANOTHER_SUBJECT, "right") > 0.95
    assert share(rows, COUNTERFACTUAL, "followed") == 0.0
    for way in (ANOTHER_SUBJECT, COUNTERFACTUAL, ANOTHER_FACT):
        assert share(rows, way, "as_it_must") > 0.9


def test_the_same_answer_to_everything_does_not_change_when_it_must(
    items: list[Item], world: World, ignorant: TableModel
) -> None:
    rows = flipped_scores(ignorant, TASK, items, world, 0, CFG.max_tokens)
    assert share(rows, ANOTHER_SUBJECT, "as_it_must") == 0.0
    assert share(rows, COUNTERFACTUAL, "as_it_must") == 1.0
    assert share(rows, COUNTERFACTUAL, "right") == 0.0


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_decides(items: list[Item], world: World, seed: int) -> None:
    assert flipped(items[0], world, seed) == flipped(items[0], world, seed)
