"""No fact contradicts another, whatever the seed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.world.config import WorldConfig
from components.data.world.facts import PRESENT_YEAR, SHARES, Entity, build, facts_of

worlds = st.builds(
    lambda seed, entities, exponent: build(WorldConfig(seed=seed, entities=entities, zipf_exponent=exponent)),
    st.integers(0, 2**40),
    st.integers(20, 150),
    st.sampled_from([0.0, 1.0, 2.0]),
)
some_worlds = settings(max_examples=15, deadline=None)


def of_kind(entities: list[Entity], kind: str) -> list[Entity]:
    return [entity for entity in entities if entity.kind == kind]


def entity(subject: Entity, relation: str) -> Entity:
    value = subject.values[relation]
    assert isinstance(value, Entity)
    return value


@some_worlds
@given(worlds)
def test_names_and_fact_ids_are_unique(entities: list[Entity]) -> None:
    assert len({one.name for one in entities}) == len({one.id for one in entities}) == len(entities)
    facts = [fact for one in entities for fact in facts_of(one)]
    assert len({fact.id for fact in facts}) == len(facts)
    assert len({(fact.subject, fact.relation) for fact in facts}) == len(facts), "two values for one relation"
    assert all(fact.value.strip() == fact.value != "" for fact in facts)


@some_worlds
@given(worlds)
def test_a_life_goes_from_birth_to_death(entities: list[Entity]) -> None:
    for person in of_kind(entities, "person"):
        birth = person.year("birth_year")
        death = person.year("death_year") if "death_year" in person.values else PRESENT_YEAR
        assert ("death_year" in person.values) == ("death_place" in person.values)
        for relation, value in person.values.items():
            if isinstance(value, int) and relation not in ("birth_year", "death_year"):
                assert birth + 18 <= value <= death, (person.id, relation, value)
        if "death_year" in person.values:
            assert death - birth >= 45
        if "teacher" in person.values:
            assert entity(person, "teacher").year("birth_year") + 15 <= birth
            assert entity(person, "teacher") is not person


@some_worlds
@given(worlds)
def test_marriages_and_twin_towns_are_mutual(entities: list[Entity]) -> None:
    for person in of_kind(entities, "person"):
        assert ("spouse" in person.values) == ("marriage_year" in person.values)
        if "spouse" in person.values:
            spouse = entity(person, "spouse")
            assert spouse is not person
            assert spouse.values["spouse"] is person
            for shared in ("marriage_year", "children"):
                assert spouse.values.get(shared) == person.values.get(shared)
    for place in of_kind(entities, "place"):
        if "twin_town" in place.values:
            assert entity(place, "twin_town").values["twin_town"] is place is not entity(place, "twin_town")


@some_worlds
@given(worlds)
def test_works_and_events_fall_in_the_life_of_their_author_or_leader(entities: list[Entity]) -> None:
    for one in [*of_kind(entities, "work"), *of_kind(entities, "event")]:
        person = entity(one, "creator" if one.kind == "work" else "leader")
        assert person.year("birth_year") + 22 <= one.year("year") <= person.last_year
        for later in ("revival_year", "memorial_year"):
            if later in one.values:
                assert one.year("year") < one.year(later) < PRESENT_YEAR
        if "dedicatee" in one.values:
            assert entity(one, "dedicatee") is not person
            assert entity(one, "dedicatee").year("birth_year") < one.year("year")
    for person in of_kind(entities, "person"):
        if "notable_work" in person.values:
            assert entity(person, "notable_work").values["creator"] is person


@some_worlds
@given(worlds)
def test_towns_are_older_than_what_stands_and_happens_in_them(entities: list[Entity]) -> None:
    founded = [place.year("founded_year") for place in of_kind(entities, "place")]
    assert max(founded) < min(person.year("birth_year") for person in of_kind(entities, "person"))
    for place in of_kind(entities, "place"):
        assert place.year("founded_year") < place.year("landmark_year")


@given(st.integers(20, 5000))
@settings(max_examples=15, deadline=None)
def test_a_world_has_as_many_entities_as_asked(entities: int) -> None:
    built = build(WorldConfig(entities=entities))
    assert len(built) == entities
    for kind, share in SHARES.items():
        assert len(of_kind(built, kind)) / entities == pytest.approx(share, abs=0.06)
