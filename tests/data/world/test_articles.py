"""What the documents say is what the fact table says, and all of it."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.world.articles import document_counts, documents
from components.data.world.config import WorldConfig
from components.data.world.facts import build, facts_of
from components.data.world.prose import patterns, relative, year_stated
from tests.data.world.conftest import WORLD, WrittenWorld


def assert_spans_state_their_facts(text: str, spans: list[tuple[int, int, str]], values: dict[str, str]) -> set[str]:
    """Every span is the value in the fact table, or a date relative to the year before it; returns the fact ids."""
    last_year: int | None = None
    end_before = 0
    for start, end, fact in spans:
        assert end_before <= start < end <= len(text), "spans overlap or run backwards"
        said, value, end_before = text[start:end], values[fact], end
        if said != value:
            subject = fact.split(".")[0]
            birth = values.get(f"{subject}.birth_year")
            assert str(year_stated(said, last_year, int(birth) if birth else None)) == value, (said, value, fact)
        if fact.endswith("year"):
            last_year = int(value)
    return {fact for _, _, fact in spans}


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**40), st.integers(20, 60))
def test_every_fact_is_in_the_text_and_every_span_is_a_fact(seed: int, entities: int) -> None:
    cfg = WorldConfig(seed=seed, entities=entities)
    built = build(cfg)
    values = {fact.id: fact.value for one in built for fact in facts_of(one)}
    told: set[str] = set()
    for document in documents(cfg, built):
        told |= assert_spans_state_their_facts(document.text, document.spans, values)
    assert told == set(values), f"never told: {sorted(set(values) - told)[:5]}"


def test_what_is_on_disk_says_the_same(world: WrittenWorld) -> None:
    values = {fact["id"]: fact["value"] for fact in world.facts.values()}
    told = [assert_spans_state_their_facts(row["text"], row["facts"], values) for row in world.documents]
    assert set().union(*told) == set(values)


def test_dates_are_also_told_relative_to_one_another(world: WrittenWorld) -> None:
    said = Counter(
        "age" if "age" in phrase else "relative" if not phrase.isdigit() else "year"
        for row in world.documents
        for start, end, fact in row["facts"]
        if fact.endswith("year") and (phrase := row["text"][start:end])
    )
    assert min(said["age"], said["relative"]) > 0.05 * said["year"] > 0, said


@given(st.integers(-20, 20), st.integers(1000, 2000))
def test_a_relative_date_is_read_back(years: int, last_year: int) -> None:
    phrase = relative(years)
    assert year_stated(phrase, last_year, None) == last_year + years
    assert year_stated(phrase.capitalize(), last_year, None) == last_year + years
    assert relative(years + 41 if years >= 0 else years - 41) == ""


def test_a_year_before_any_other_cannot_be_relative() -> None:
    with pytest.raises(AssertionError):
        year_stated("three years later", None, None)


def test_prose_is_clean(world: WrittenWorld) -> None:
    for row in world.documents:
        text = row["text"]
        assert not re.search(r"  | [,.;]|[{}<>|\[\]]|\b[Aa] [aeiou]|\b[Aa]n (?!heir)[^aeiou]", text), text
        assert all(paragraph[0].isupper() or paragraph[0] == '"' for paragraph in text.split("\n\n"))
        assert text.endswith((".", '."')), text[-40:]


def test_wording_varies(world: WrittenWorld) -> None:
    """Sentences, with facts blanked out, seldom repeat: there are many ways to tell one fact."""
    sentences: Counter[str] = Counter()
    for row in world.documents:
        text = row["text"]
        for start, end, _ in reversed(row["facts"]):
            text = f"{text[:start]}_{text[end:]}"
        sentences.update(re.split(r"(?<=\.) |\n\n", text))
    assert len(sentences) > 0.4 * sentences.total()
    assert sentences.most_common(1)[0][1] < 0.02 * sentences.total(), sentences.most_common(3)


def test_popular_entities_have_several_documents_and_every_entity_one(world: WrittenWorld) -> None:
    about = Counter(row["id"].split("/")[0] for row in world.documents)
    assert len(world.documents) == len({row["id"] for row in world.documents})
    assert len(about) == WORLD.entities
    assert sorted(about.values(), reverse=True) == document_counts(WORLD)
    assert len(world.documents) / WORLD.entities == pytest.approx(WORLD.documents_per_entity, rel=0.01)


@pytest.mark.parametrize("exponent", [0.6, 1.0, 1.4])
def test_documents_follow_zipfs_law(exponent: float) -> None:
    counts = np.array(document_counts(WorldConfig(entities=2000, documents_per_entity=20, zipf_exponent=exponent)))
    head = counts[:200]
    slope = np.polyfit(np.log(np.arange(1, len(head) + 1)), np.log(head), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.05)


def test_mentions_follow_zipfs_law(world: WrittenWorld) -> None:
    """Naming counts too: as birth place, spouse, author. Few are named very often, most only a few times."""
    names = {fact["value"] for fact in world.facts.values() if fact["relation"] == "name"}
    mentions = Counter(
        said for row in world.documents for start, end, _ in row["facts"] if (said := row["text"][start:end]) in names
    )
    counts = np.array([count for _, count in mentions.most_common()])
    slope = np.polyfit(np.log(np.arange(3, 101)), np.log(counts[2:100]), 1)[0]
    assert -1.5 < slope < -0.7, slope
    assert len(counts) == WORLD.entities
    assert np.median(counts) < 15 < 200 < counts[0]


def test_one_document_mentions_other_entities(world: WrittenWorld) -> None:
    crossing = sum(len({fact.split(".")[0] for _, _, fact in row["facts"]}) > 1 for row in world.documents)
    assert crossing > 0.3 * len(world.documents)


def test_documents_about_one_entity_are_spread_over_the_corpus(world: WrittenWorld) -> None:
    most = Counter(row["id"].split("/")[0] for row in world.documents).most_common(1)[0][0]
    places = [index for index, row in enumerate(world.documents) if row["id"].startswith(f"{most}/")]
    halves = Counter(index < len(world.documents) // 2 for index in places)
    assert abs(halves[True] - halves[False]) <= 0.2 * len(places)


def test_every_relation_has_patterns_a_question_and_a_prompt() -> None:
    for one in build(WorldConfig(entities=300)):
        known = patterns(one.kind)
        for relation in one.values.keys() - {"name", "surname"}:
            assert relation in known.questions, (one.kind, relation)
            assert any(pattern.prompt for pattern in known.by_relation[relation])
            assert any(
                all(wording.needs == ((relation,),) for wording in pattern.wordings)
                for pattern in known.by_relation[relation]
            ), f"{one.kind}.{relation}: no pattern that needs nothing else"
