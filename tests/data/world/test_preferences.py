from collections import Counter

import pytest

from components.data.world.files import FACTS
from components.data.world.preferences import preferences
from components.data.world.table import FactTable
from tests.data.world.conftest import WrittenWorld


@pytest.fixture
def table(world: WrittenWorld) -> FactTable:
    return FactTable.load(world.folder / FACTS)


def test_the_answers_differ_in_the_value_and_hardly_in_length(table: FactTable) -> None:
    pairs = preferences(table, 2000)
    assert all(pair.true != pair.false for pair in pairs)
    longer = Counter((len(pair.true) > len(pair.false)) - (len(pair.true) < len(pair.false)) for pair in pairs)
    assert abs(longer[1] - longer[-1]) < 0.05 * len(pairs), longer


def test_the_true_answer_states_the_value_of_the_fact_table(table: FactTable, world: WrittenWorld) -> None:
    values = {(fact["subject"], fact["value"]) for fact in world.facts.values()}
    for pair in preferences(table, 300):
        name = table.entities[pair.subject].name
        known = [value for subject, value in values if subject == name and value in pair.true.replace(name, "")]
        assert known, pair


def test_popular_subjects_come_first_and_most_often(table: FactTable) -> None:
    rank = {id: place for place, id in enumerate(table.entities)}
    ranks = [rank[pair.subject] for pair in preferences(table, 500)]
    assert ranks == sorted(ranks)
    assert sum(each < 40 for each in ranks) > len(ranks) / 3


def test_the_same_world_gives_the_same_pairs(table: FactTable) -> None:
    assert preferences(table, 50) == preferences(table, 50)
