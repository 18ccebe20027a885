"""The oracle answers facts, cut to the unit that was asked for, and is silent elsewhere."""

from pathlib import Path

import pytest

from components.cascade.helpers.base import Helper, Reply
from components.cascade.helpers.fact_table import FactTableHelper
from components.core.errors import ArtifactError
from components.data.tokenizer import TextTokenizer
from components.data.world.comprehension import World
from components.data.world.facts import Entity
from tests.cascade.helpers.conftest import call


@pytest.fixture(scope="module")
def place(facts: Path) -> Entity:
    return next(e for e in World.load(facts).table.entities.values() if e.kind == "place")


@pytest.fixture(scope="module")
def helper(facts: Path, tokenizer: TextTokenizer) -> FactTableHelper:
    return FactTableHelper.load(facts, tokenizer)


def said(helper: Helper, *arguments: object) -> str:
    (reply,) = helper.answer([call(*arguments)])  # type: ignore[arg-type]
    assert isinstance(reply, Reply)
    assert reply.tokens == 0
    assert reply.seconds < 1
    return reply.text


def test_a_unit_is_a_token_a_word_or_the_whole_value(
    helper: FactTableHelper, place: Entity, tokenizer: TextTokenizer
) -> None:
    landmark = f" {place.values['landmark']}"
    prompt = f"The chief landmark of {place.name} is the"
    assert said(helper, prompt, "entity") == landmark
    assert said(helper, prompt, "word") == " " + landmark.split()[0]
    assert said(helper, prompt, "token") == tokenizer.decode(tokenizer.encode(landmark)[:1])
    assert said(helper, prompt + landmark[:4], "entity") == landmark[4:]
    assert said(helper, prompt, "entity", 2) == tokenizer.decode(tokenizer.encode(landmark)[:2])


def test_called_again_and_again_it_writes_the_value(helper: FactTableHelper, place: Entity) -> None:
    text = prompt = f"The chief landmark of {place.name} is the"
    for _ in range(30):
        text += said(helper, text, "token")
    assert text == f"{prompt} {place.values['landmark']}"


def test_where_no_fact_belongs_it_knows_nothing(helper: FactTableHelper, place: Entity) -> None:
    for text in (
        "",
        "Hello",
        f"{place.name} stands on",
        f"The chief landmark of {place.name} is the Qq",
        "A" * 100_000,
    ):
        assert said(helper, text) == ""


def test_a_misspelt_prompt_gets_the_answer_of_the_prompt(helper: FactTableHelper, place: Entity) -> None:
    landmark = f" {place.values['landmark']}"
    for misspelt in ("The cheif landmark of", "The chief landmrk of", "The chieff lanbmark of"):
        assert said(helper, f"{misspelt} {place.name} is the", "entity") == landmark
    beheaded = place.name[:2] + place.name[3:]
    assert said(helper, f"The chief landmark of {beheaded} is the", "entity") == landmark


def test_without_a_tokenizer_a_token_is_a_word(facts: Path, place: Entity) -> None:
    assert (
        said(FactTableHelper.load(facts), f"{place.name} stands on the river", "token") == f" {place.values['river']}"
    )


def test_a_batch_is_answered_in_order(helper: FactTableHelper, place: Entity) -> None:
    calls = [call(f"{place.name} stands on the river"), call("nothing"), call(f"{place.name} lies in the region of")]
    replies = helper.answer(calls)
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == [
        f" {place.values['river']}",
        "",
        f" {place.values['region']}",
    ]


def test_a_missing_fact_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"raw/world"):
        FactTableHelper.load(tmp_path / "facts.jsonl")
