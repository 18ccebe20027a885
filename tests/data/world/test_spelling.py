"""Misspelt words of the closed world, and text that needs no correction."""

from pathlib import Path
from random import Random

import pytest

from components.data.world.comprehension import World
from components.data.world.spelling import Spelling
from components.evaluation.robustness.slips import misspelt
from tests.data.world.conftest import WrittenWorld


@pytest.fixture(scope="module")
def table_world(world: WrittenWorld) -> World:
    return World.load(Path(world.folder) / "facts.jsonl")


@pytest.fixture(scope="module")
def spelling(table_world: World) -> Spelling:
    return Spelling(table_world.table)


def test_the_corpus_itself_has_no_misspelt_word(world: WrittenWorld, spelling: Spelling) -> None:
    for document in world.documents[:200]:
        assert list(spelling.readings(document["text"])) == []


def test_an_unfinished_last_word_is_no_mistake(spelling: Spelling) -> None:
    assert list(spelling.readings("She was born in the tow")) == []
    assert "She was born in the town" in spelling.readings("She was bron in the town")


def test_nearly_every_misspelt_prompt_is_understood(
    world: WrittenWorld, table_world: World, spelling: Spelling
) -> None:
    understood = 0
    for number, question in enumerate(world.questions[:100]):
        prompt = misspelt(question["prompt"], 0.1, Random(number))
        assert prompt != question["prompt"]
        values = filter(None, map(table_world.next_value, (prompt, *spelling.readings(prompt))))
        found = next(values, None)
        understood += found is not None and found.text.strip(' "').startswith(question["answer"])
    assert understood >= 90


def test_words_that_are_like_no_other_stay_and_cost_nothing(spelling: Spelling) -> None:
    assert list(spelling.readings("Zzyzx qqqqqq " + "a" * 100_000)) == []
