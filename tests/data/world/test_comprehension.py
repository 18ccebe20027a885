"""The corpus read back: what the writer says it stated is what the reader finds, and what comes next is what came."""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from components.core.errors import ArtifactError
from components.data.world.comprehension import Claim, Continuation, World
from components.data.world.config import WorldConfig
from components.data.world.facts import Entity
from components.data.world.files import FACTS
from components.data.world.table import is_year
from components.data.world.writer import write_world
from tests.data.world.conftest import WrittenWorld, read_back

NAMES = ("name", "surname")


def relation_of(fact: str) -> str:
    return fact.rsplit(".", 1)[-1]


class Read(NamedTuple):
    written: WrittenWorld
    world: World


@pytest.fixture(scope="module", params=[0, 1])
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Read:
    folder = tmp_path_factory.mktemp("world")
    write_world(WorldConfig(seed=request.param, entities=60), folder)
    return Read(read_back(folder), World.load(folder / FACTS))


@pytest.fixture(scope="module")
def large(world: WrittenWorld) -> World:
    return World.load(world.folder / FACTS)


def test_every_sentence_of_the_corpus_is_understood_and_states_what_was_written(
    read: Read, world: WrittenWorld, large: World
) -> None:
    """All of a small world, and part of one of 800 entities."""
    documents = [(read.world, document) for document in read.written.documents]
    documents += [(large, document) for document in world.documents[::40]]
    for reader, document in documents:
        reading = reader.claims(document["text"])
        stated = [tuple(span) for span in document["facts"] if relation_of(span[2]) not in NAMES]
        assert reading.subject is not None
        assert reading.subject.id == document["id"].split("/")[0]
        assert reading.understood == reading.sentences > 0, reading.unclear
        assert [claim[:3] for claim in reading.claims] == stated, document["id"]
        assert all(claim.true for claim in reading.claims), document["id"]


def test_one_wrong_value_is_one_false_claim(read: Read) -> None:
    rng = random.Random(0)
    facts = read.written.facts
    by_relation: dict[tuple[str, str], set[str]] = {}
    for fact in facts.values():
        by_relation.setdefault((fact["kind"], fact["relation"]), set()).add(fact["value"])
    corrupted: Counter[str] = Counter()
    for document in read.written.documents:
        text = document["text"]
        spans = [span for span in document["facts"] if relation_of(span[2]) not in NAMES]
        # Later years may be told relative to this one and would be wrong with it.
        spans = [span for span in spans if not is_year(relation_of(span[2]))] or spans[-1:]
        start, end, id = rng.choice(spans)
        if is_year(relation_of(id)) and not text[start:end].isdigit():
            continue
        fact = facts[id]
        others = sorted(by_relation[fact["kind"], fact["relation"]] - {fact["value"]})
        if not others:
            continue
        other = rng.choice(others)
        reading = read.world.claims(text[:start] + other + text[end:])
        false = [claim for claim in reading.claims if not claim.true]
        assert false == [Claim(start, start + len(other), id, other, False)], (document["id"], text[:end], other)
        assert len(reading.claims) == len([s for s in document["facts"] if relation_of(s[2]) not in NAMES])
        corrupted[fact["relation"]] += 1
    assert corrupted.total() > 100
    assert len(corrupted) > 15


def test_a_wrong_year_is_false_however_it_is_written(large: World) -> None:
    person = next(e for e in large.table.entities.values() if e.kind == "person" and "death_year" in e.values)
    birth, death = person.year("birth_year"), person.year("death_year")
    lead = f"{person.name} was born in the year {birth}. {person.short_name} died"
    right = [f"in {death}", f"at the age of {death - birth}"]
    wrong = [f"in {death + 1}", f"at the age of {death - birth - 1}", "in the same year", "three years earlier"]
    for phrase in right + wrong:
        reading = large.claims(f"{lead} {phrase} in {person.values['death_place'].name}.")  # type: ignore[union-attr]
        # No wording ends here: it goes on with a comma. As an unfinished sentence it would count.
        assert reading.understood == 1
        reading = large.claims(f"{lead} {phrase} in {person.values['death_place'].name}, calmly.")  # type: ignore[union-attr]
        assert reading.understood == 2, phrase
        assert [claim.true for claim in reading.claims] == [True, phrase in right, True], phrase
        assert relation_of(reading.claims[1].fact_id) == "death_year"
        assert reading.claims[1].stated.isdigit()


def test_a_year_relative_to_nothing_is_not_true(large: World) -> None:
    place = next(e for e in large.table.entities.values() if e.kind == "place" and "railway_year" in e.values)
    reading = large.claims(
        f"{place.name} stands on the river {place.values['river']}. Two years later, the railway came,"
    )
    assert [(claim.stated, claim.true) for claim in reading.claims][1:] == [("Two years later", False)]


def test_a_misspelt_subject_is_a_false_claim_and_pronouns_are_none(large: World) -> None:
    person = next(e for e in large.table.entities.values() if e.kind == "person")
    school, pastime = person.values["school"], person.values["pastime"]
    wrong = f"{person.name[:-1]}q"
    text = f"{person.name} studied at {school}. {wrong} studied at {school}. His favourite pastime was {pastime}."
    reading = large.claims(text)
    assert reading.understood == 3
    assert [(claim.fact_id, claim.true) for claim in reading.claims] == [
        (f"{person.id}.school", True),
        (f"{person.id}.name", False),
        (f"{person.id}.school", True),
        (f"{person.id}.pastime", True),
    ]


def test_words_and_values_that_no_world_has_are_still_read(large: World) -> None:
    place = next(e for e in large.table.entities.values() if e.kind == "place")
    reading = large.claims(f"{place.name} is a zorbish town in Nowheria, on the {place.values['river']}.")
    assert reading.understood == 1
    assert [(claim.stated, claim.true) for claim in reading.claims] == [
        ("Nowheria", False),
        (place.values["river"], True),
    ]
    reading = large.claims(f"{place.name} has a population of countless people.")
    assert [(claim.fact_id, claim.true) for claim in reading.claims] == [(f"{place.id}.population", False)]


def test_facts_the_subject_does_not_have_are_false(large: World) -> None:
    single = next(e for e in large.table.entities.values() if e.kind == "person" and "spouse" not in e.values)
    other = next(e for e in large.table.entities.values() if e.kind == "person" and e is not single)
    reading = large.claims(f"{single.name} was married to {other.name}.")
    assert [claim[2:] for claim in reading.claims] == [(f"{single.id}.spouse", other.name, False)]


def test_what_is_no_sentence_of_the_world_is_counted(large: World) -> None:
    person = next(e for e in large.table.entities.values() if e.kind == "person")
    text = f"{person.name} studied at {person.values['school']}. Bananas are yellow. Łódź 🙂 e\u0301.\nAnd this too."
    reading = large.claims(text)
    assert (reading.sentences, reading.understood) == (4, 1)
    assert next(text[start:end] for start, end in reading.unclear) == "Bananas are yellow."


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", ".", "Nobody was born in the year 1900.", '"""', "🙂" * 50, "a" * 5000]
)
def test_text_about_nobody_claims_nothing(large: World, text: str) -> None:
    reading = large.claims(text)
    assert reading.subject is None
    assert reading.claims == []
    assert large.next_value(text) is None


def test_the_subject_may_be_given(large: World) -> None:
    person = next(e for e in large.table.entities.values() if e.kind == "person")
    text = f"She studied at {person.values['school']}."
    assert large.claims(text).claims == []
    assert [claim.fact_id for claim in large.claims(text, person.name).claims] == [f"{person.id}.school"]


def test_an_unfinished_sentence_claims_what_it_has_stated_so_far(large: World) -> None:
    place = next(e for e in large.table.entities.values() if e.kind == "place")
    whole = f"{place.name} is a calm town in {place.values['region']}, on the {place.values['river']}"
    assert [relation_of(c.fact_id) for c in large.claims(whole).claims] == ["region"]  # the river may go on
    assert [relation_of(c.fact_id) for c in large.claims(whole + ".").claims] == ["region", "river"]
    assert large.claims(whole[:-3]).claims[0].true


class Asked(NamedTuple):
    where: str
    gold: str
    options: list[Continuation]
    before: str


def asked(read: Read) -> Iterator[Asked]:
    """At each factual span of part of the corpus: in front of it, without the space, and in its middle."""
    for document in read.written.documents[::6]:
        text = document["text"]
        named = min(span[0] for span in document["facts"] if relation_of(span[2]) == "name")
        for start, end, id in document["facts"]:
            what = "unknowable" if start < named else "name" if relation_of(id) in NAMES else "value"
            if start == named:
                what = "first name"
            places = {"start": start, "middle": (start + end) // 2}
            if text[start - 1 : start] == " ":
                places["no space"] = start - 1
            for where, at in places.items():
                found = read.world.next_value(text[:at])
                yield Asked(f"{what} {where}", text[at:end], found.options if found else [], text[:at])


def test_the_text_goes_on_as_the_writer_went_on(read: Read) -> None:
    """The true value is always among the options, and nearly always the first one.

    What is not first: places where several facts may stand ("In 18"), and years told relative to another. What comes
    before the subject has been named cannot be known.
    """
    total: Counter[str] = Counter()
    first: Counter[str] = Counter()
    for where, gold, options, before in asked(read):
        total[where] += 1
        first[where] += bool(options) and options[0].text == gold
        if where.startswith(("value", "name")):
            assert gold in [option.text for option in options], (before[-80:], gold, options[:3])
        elif where.startswith("unknowable"):
            assert not options, (before, options)
    assert total["value start"] > 200
    assert first["value start"] / total["value start"] > 0.88
    assert first["value no space"] / total["value no space"] > 0.88
    assert first["value middle"] / total["value middle"] > 0.96
    assert first["name middle"] / total["name middle"] > 0.96


def test_what_is_no_fact_has_no_continuation(large: World) -> None:
    place = next(e for e in large.table.entities.values() if e.kind == "place" and "railway_year" in e.values)
    river = str(place.values["river"])
    for text in (
        f"{place.name} stands",
        f"{place.name} stands on the ri",
        f"{place.name} is a calm",
        f"{place.name} stands on the river {river}",
        f"{place.name} stands on the river Xq",  # begun wrongly
        f"{place.name} is described by nobody as",
    ):
        assert large.next_value(text) is None, text


def test_missing_spaces_and_half_values_are_completed(large: World) -> None:
    place = next(e for e in large.table.entities.values() if e.kind == "place" and "railway_year" in e.values)
    river, year = str(place.values["river"]), place.year("railway_year")
    lead = f"{place.name} stands on the river"
    assert (
        [large.next_value(lead + end).text for end in ("", " ", " " + river[:3])]
        == [  # type: ignore[union-attr]
            " " + river,
            river,
            river[3:],
        ]
    )
    text = f"{place.name} was founded in the year {place.values['founded_year']}. A small railway station was built"
    for said, rest in {"": f" in {year}", " in": f" {year}", f" in {year // 10}": str(year)[3:]}.items():
        found = large.next_value(text + said)
        assert found is not None
        assert (found.text, found.fact_id) == (rest, f"{place.id}.railway_year")


def test_a_relative_year_can_be_completed(read: Read) -> None:
    """Phrases like "three years later", cut anywhere."""
    seen = 0
    for document in read.written.documents:
        for start, end, id in document["facts"]:
            phrase = document["text"][start:end]
            if is_year(relation_of(id)) and not phrase.isdigit():
                found = read.world.next_value(document["text"][: start + phrase.index(" ")])
                assert found is not None
                assert phrase[phrase.index(" ") :] in [option.text for option in found.options]
                seen += 1
    assert seen > 50


def test_an_unnamed_subject_is_whoever_fits(large: World) -> None:
    event = next(e for e in large.table.entities.values() if e.kind == "event")
    place = event.values["place"]
    assert isinstance(place, Entity)
    found = large.next_value(f"In {event.values['year']}, {place.name} was the scene of the")
    assert found is not None
    assert f" {event.name}" in [option.text for option in found.options]
    assert large.next_value("The ") is None


def test_questions_and_prompts_are_answered(world: WrittenWorld, large: World) -> None:
    for question in world.questions[:200]:
        found = large.next_value(question["prompt"])
        assert found is not None, question
        assert (found.text.strip(), found.fact_id) == (question["answer"], question["fact"])
        found = large.next_value(question["question"])
        assert found is not None, question
        assert (found.text, found.fact_id) == (f" {question['answer']}", question["fact"])


def test_reading_is_fast(read: Read) -> None:
    documents = read.written.documents[:40]
    began = time.process_time()
    for document in documents:
        read.world.claims(document["text"])
    assert (time.process_time() - began) / len(documents) < 0.020
    seconds = []
    for document in documents:
        for start, _, _ in document["facts"]:
            began = time.process_time()
            read.world.next_value(document["text"][:start])
            seconds.append(time.process_time() - began)
    assert sorted(seconds)[len(seconds) // 2] < 0.003


def test_a_growing_text_is_not_read_again(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    text = max((document["text"] for document in read.written.documents), key=len)
    world = World(read.world.table)
    sentences = world.claims(text).sentences
    calls = 0
    understood = world._understood

    def counted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        return understood(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(world, "_understood", counted)
    for end in range(0, len(text), 7):
        world.next_value(text[:end])
    assert calls <= sentences


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("", "empty"),
        ("{}\n", "line 1"),
        ("no json\n", "line 1"),
        (json.dumps({"id": "a-1.year", "kind": "work", "subject": "A", "relation": "year", "value": "soon"}), "line 1"),
        (json.dumps({"id": "a-1.name", "kind": "god", "subject": "A", "relation": "name", "value": "A"}), "god"),
    ],
)
def test_what_is_no_fact_table_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "facts.jsonl").write_text(content)
    with pytest.raises(ArtifactError, match=said):
        World.load(tmp_path / "facts.jsonl")
